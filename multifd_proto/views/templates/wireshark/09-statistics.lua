---- statistics ------------------------------------------------------------------------------------

local function rate(c)
  local seconds = (c.last_time or 0) - (c.first_time or 0)
  return seconds > 0 and string.format("%.1f", c.bytes * 8 / seconds / 1e6) or "-"
end

local function statistics()
  local lines, rounds, last = {}, {}, -1
  local function line(...) table.insert(lines, string.format(...)) end
  local columns = "%-7s%-5s%8s%6s%9s%9s%12s%8s%6s" -- as wide as Wireshark's window for text
  line(columns, "stream", "ch", "packets", "SYNC", "normal", "zero", "payload", "Mbit/s", "wrong")
  for _, stream in ipairs(state.numbers) do
    local c = state.streams[stream]
    local id = c.kind == "main" and "main" or tostring(c.id or "?")
    line(columns, stream, id, c.packets, c.syncs, c.normal, c.zero, c.bytes, rate(c), c.violations)
    for number_, r in pairs(c.rounds) do
      local sum = rounds[number_] or { channels = 0, packets = 0, normal = 0, zero = 0, bytes = 0 }
      rounds[number_], last = sum, math.max(last, number_)
      sum.channels = sum.channels + 1
      for name, value in pairs(r) do sum[name] = sum[name] + value end
    end
  end
  line("")
  columns = "%-7s%-9s%10s%9s%9s%12s"
  line(columns, "round", "channels", "packets", "normal", "zero", "payload")
  for number_ = 0, last do
    local r = rounds[number_]
    if r then
      line(columns, number_, r.channels, r.packets, r.normal, r.zero, r.bytes)
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

if gui_enabled() then
  register_menu("multifd channels and rounds", function()
    local window = TextWindow.new("multifd channels and rounds")
    window:set(statistics())
  end, MENU_TOOLS_UNSORTED)
else
  local tap = Listener.new("frame")
  function tap.draw()
    if multifd.prefs.statistics then print(statistics()) end
  end
end
