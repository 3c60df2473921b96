"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const narrow = matchMedia("(max-width: 40rem)");
  const drawn = new Set();

  // colours are written as names of the style sheet's properties
  function coloured(value, style) {
    if (Array.isArray(value)) return value.map((item) => coloured(item, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, style)]));
    const name = typeof value === "string" && /^var\((--[\w-]+)\)$/.exec(value);
    return name ? style.getPropertyValue(name[1]).trim() : value;
  }

  function axis(own = {}) {
    const title = { ...own.title, standoff: 8 };
    return { gridcolor: "var(--line)", zeroline: false, automargin: true, fixedrange: touch,
      ...own, title };
  }

  function layout(own) {
    const axes = Object.keys(own).filter((key) => /^[xy]axis/.test(key));
    for (const key of ["xaxis", "yaxis"]) if (!axes.includes(key)) axes.push(key);
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: narrow.matches ? 11 : 13, color: "var(--ink)" },
      hoverlabel: { bgcolor: "var(--bg)", bordercolor: "var(--dim)", align: "left",
        font: { color: "var(--ink)" } },
      legend: { traceorder: "normal", orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      margin: { l: 10, r: 10, t: 30, b: 40 },
      dragmode: touch ? false : "zoom",
      ...own,
      ...Object.fromEntries(axes.map((key) => [key, axis(own[key])])),
    };
  }

  function draw(part) {
    const figure = figures[part.dataset.figure];
    const style = getComputedStyle(document.documentElement);
    const data = coloured(figure.data, style);
    if (narrow.matches)
      for (const trace of data)
        if (trace.type === "heatmap") Object.assign(trace, { showscale: false, xgap: 0 });
    drawn.add(part);
    return Plotly.react(part, data, coloured(layout(figure.layout), style), {
      responsive: true, displaylogo: false, scrollZoom: false, displayModeBar: false,
    });
  }

  const parts = [...document.querySelectorAll("[data-figure]")];
  for (const part of parts) part.style.minHeight = `${figures[part.dataset.figure].layout.height}px`;
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "600px" });
  parts.forEach((part) => seen.observe(part));
  const again = () => drawn.forEach(draw);
  dark.addEventListener("change", again);
  narrow.addEventListener("change", again);
  addEventListener("beforeprint", () => parts.forEach(draw));

  // an address inside something folded opens it
  function follow() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    for (let it = target; it; it = it.parentElement) if (it.tagName === "DETAILS") it.open = true;
    if (target) target.scrollIntoView();
  }
  addEventListener("hashchange", follow);
  follow();

  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
})();
