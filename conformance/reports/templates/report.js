"use strict";
(() => {
  const form = document.getElementById("filter");
  const all = (selector, of = document) => Array.from(of.querySelectorAll(selector));
  // what is searched: a row with its own texts, and those of its case and requirement
  const rows = all(".row").map((row) => {
    const line = row.closest(".case");
    const req = row.closest(".req");
    const near = [...all("h4, h4 + p", line), ...all(":scope > summary .name, blockquote", req)];
    return {
      row, level: req.dataset.level, chapter: req.closest(".chapter").dataset.chapter,
      text: [row, ...near].map((part) => part.textContent).join(" ").toLowerCase(),
    };
  });

  function filter() {
    const { text, peer, level, chapter } = Object.fromEntries(new FormData(form));
    const verdicts = new FormData(form).getAll("verdict");
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const it of rows) {
      const match = (!peer || it.row.dataset.p === peer) && (!level || it.level === level)
        && (!chapter || it.chapter === chapter)
        && (!verdicts.length || verdicts.includes(it.row.dataset.v))
        && words.every((word) => it.text.includes(word));
      it.row.hidden = !match;
      shown += match;
    }
    for (const selector of [".case", ".req", ".chapter", ".matrix"])
      for (const part of all(selector)) part.hidden = !part.querySelector(".row:not([hidden])");
    document.getElementById("shown").textContent = `${shown} of ${rows.length} results shown`;
    document.getElementById("nothing").hidden = shown > 0;
  }

  function unfold(part) {
    for (let it = part; it; it = it.parentElement) if (it.tagName === "DETAILS") it.open = true;
  }

  // an address such as #INIT-12/id-equals-channels opens what it leads to
  function follow() {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch { /* as it stands */ }
    const part = id && document.getElementById(id);
    if (!part) return;
    if (part.closest("[hidden]")) {
      form.reset();
      filter();
    }
    unfold(part);
    part.scrollIntoView();
  }

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      // pages that came over plain HTTP have no clipboard
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  let printed = [];
  addEventListener("beforeprint", () => {
    const marks = "[data-v=failed], [data-v=harness-error], [data-v=inconclusive]";
    const kept = new Set(all("details[open]"));
    all(`.row:is(${marks}):not([hidden])`).forEach(unfold);
    printed = all("details[open]").filter((part) => !kept.has(part));
  });
  addEventListener("afterprint", () => printed.forEach((part) => { part.open = false; }));

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  document.getElementById("open").addEventListener("click", () => {
    all(".row:not([hidden])").forEach((row) => unfold(row.closest(".req")));
  });
  document.getElementById("close").addEventListener("click", () => {
    all(".matrix details").forEach((part) => { part.open = false; });
  });
  document.addEventListener("click", (event) => {
    const count = event.target.closest(".count");
    if (count) {
      form.reset();
      form.elements.peer.value = count.dataset.peer;
      form.querySelector(`[value="${count.dataset.verdict}"]`).checked = true;
    }
    const button = event.target.closest(".copy");
    if (button) copy(button);
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) follow();
  });
  addEventListener("hashchange", follow);

  // the heads of the columns stay below the filter, which stays at the top where there is room
  new ResizeObserver(() => {
    const stays = getComputedStyle(form).position === "sticky";
    const height = stays ? form.offsetHeight : 0;
    document.documentElement.style.setProperty("--bar", `${height}px`);
  }).observe(form);

  form.hidden = false;
  all(".copy").forEach((button) => { button.hidden = false; });
  filter();
  follow();
})();
