---- rules -----------------------------------------------------------------------------------------

-- RULES[event] is a list of { id, when, judge }; judge(c, e) returns a fault, or nothing.
local RULES = { init = {}, header = {}, packet = {}, device_state = {}, ended = {}, main = {} }

local function rule(id, event, when, judge)
  table.insert(RULES[event], { id = id, when = when, judge = judge })
end

-- options.quirk: known deviation that looks like it; options.wrong(dialect): where it is wrong.
local function fault(what, seen, demanded, options)
  local found = options or {}
  found.what, found.seen, found.demanded = what, seen, demanded
  return found
end

-- Note a fault, unless it only tells that the sender is of a release for which it is none.
local function violate(c, e, id, found)
  local migration, requirement = c.migration, REQUIREMENTS[id]
  local right, excused = {}, false
  for _, dialect in ipairs(migration.dialects) do
    local binds = contains(requirement.dialects, dialect.name)
    if not binds or (found.wrong and not found.wrong(dialect)) then table.insert(right, dialect) end
    excused = excused or (found.quirk and contains(QUIRKS[found.quirk].dialects, dialect.name))
  end
  if #right > 0 then
    migration.dialects = right
    return
  end
  local message = string.format("%s: %s is %s, %s be %s", id, found.what, tostring(found.seen),
    requirement.level:lower(), tostring(found.demanded))
  c.violations = c.violations + 1
  table.insert(e.violations, { id = id, message = message, quirk = excused and found.quirk or nil })
end

local function judge(c, event, e)
  for _, r in ipairs(RULES[event]) do
    if not r.when or r.when(c, e) then
      local found = r.judge(c, e)
      if found then violate(c, e, r.id, found) end
    end
  end
end

local function known(_, e) return e.known >= PACKET.ramblock.offset end

local function has_pages(c, e) return known(c, e) and e.pages > 0 end

local function fits(e) return e.pages <= e.pages_alloc and e.pages_alloc <= e.count end

local function placed(c, e) return has_pages(c, e) and e.offsets and fits(e) end

local function is_ascending(list)
  for place = 2, #list do
    if list[place] <= list[place - 1] then return false end
  end
  return true
end

local function some(list)
  local first = table.concat({ list[1], list[2], list[3] }, ", ")
  return #list <= 3 and first or string.format("%s and %d more", first, #list - 3)
end

rule("INIT-1", "init", nil, function(_, e)
  if e.magic ~= MAGIC then
    return fault("magic", string.format("0x%08x", e.magic), string.format("0x%08x", MAGIC))
  end
end)
rule("INIT-2", "init", function(_, e) return e.magic == MAGIC end, function(_, e)
  if e.version ~= VERSION then return fault("version", e.version, VERSION) end
end)
rule("INIT-7", "init", function(_, e) return e.magic == MAGIC and e.version == VERSION end,
  function(_, e)
    if not is_zero(e.reserved) then
      local options = { quirk = "reserved-init-bytes" }
      return fault("reserved area", bytes_hex(e.reserved), "zero", options)
    end
  end)
rule("INIT-8", "ended", function(_, e) return e.state == "init" end, function(_, e)
  return fault("end of the channel", string.format("after %d bytes", INIT.size - e.due),
    "after the 64 of the init")
end)
rule("CHAN-1", "ended", function(_, e) return e.state ~= "init" and e.due > 0 end, function(_, e)
  return fault("end of the channel",
    string.format("%d bytes before the end of a %s", e.due, e.state), "between packets")
end)
rule("PKT-1", "header", nil, function(_, e)
  if e.magic ~= MAGIC then
    return fault("magic", string.format("0x%08x", e.magic), string.format("0x%08x", MAGIC))
  end
end)
rule("PKT-2", "header", function(_, e) return e.magic == MAGIC end, function(_, e)
  if e.version ~= VERSION then return fault("version", e.version, VERSION) end
end)
rule("PKT-3", "header", function(_, e) return e.magic == MAGIC end, function(_, e)
  local newest = DIALECTS[#DIALECTS].flags
  local function wrong(dialect) return masked(e.flags, dialect.flags) ~= e.flags end
  if e.flags ~= 0 then
    return fault("flags word", string.format("0x%x", e.flags),
      string.format("no bit outside 0x%x", newest), { wrong = wrong })
  end
end)
rule("PKT-4", "packet", known, function(_, e)
  if e.pages_alloc > e.count then
    return fault("pages_alloc", e.pages_alloc, "at most " .. e.count)
  end
end)
rule("PKT-5", "packet", has_pages, function(_, e)
  if e.pages_alloc < e.count then return fault("pages_alloc", e.pages_alloc, e.count) end
end)
rule("PKT-6", "packet", known, function(_, e)
  if e.normal_pages > e.pages_alloc then
    return fault("normal_pages", e.normal_pages, "at most pages_alloc, " .. e.pages_alloc)
  end
end)
rule("PKT-7", "packet", known, function(_, e)
  local room = e.pages_alloc - e.normal_pages
  if room >= 0 and room < e.zero_pages then
    return fault("zero_pages", e.zero_pages, "at most pages_alloc - normal_pages, " .. room)
  end
end)
rule("PKT-8", "packet", known, function(_, e)
  if not is_zero(e.reserved) then return fault("reserved area", bytes_hex(e.reserved), "zero") end
  if e.zero_pages > 0 then -- the same bytes, where releases before 9.0 have no zero_pages
    return fault("reserved area", e.zero_pages .. " at byte 32", "zero",
      { wrong = function(dialect) return not dialect.zero_pages end })
  end
end)
rule("PKT-9", "packet", function(c, e) return has_pages(c, e) and e.ramblock end, function(_, e)
  if not e.ramblock:find("%z") then
    return fault("ramblock", name_of(e.ramblock:sub(1, 24)) .. "... without NUL", "NUL-terminated")
  end
end)
rule("PKT-10", "packet", function(_, e) return e.ramblock end, function(_, e)
  local padding = e.ramblock:match("^[^%z]*(.*)$")
  if not is_zero(padding) then
    return fault("ramblock after the name", bytes_hex((padding:gsub("%z+$", ""))), "NUL")
  end
end)
rule("PKT-14", "packet", placed, function(_, e)
  local odd = {}
  for place = 1, #e.offsets do
    local _, low = offset_at(e.raw_offsets, place)
    if low % e.page_size ~= 0 then table.insert(odd, hex(raw_offset(e, place))) end
  end
  if #odd > 0 then
    return fault("offset", some(odd), string.format("a multiple of 0x%x", e.page_size))
  end
end)
rule("PKT-15", "packet", placed, function(_, e)
  if is_ascending(e.offsets) then return nil end
  local seen, twice = {}, {}
  for place = 1, #e.offsets do
    local raw = raw_offset(e, place)
    if seen[raw] then table.insert(twice, hex(raw)) end
    seen[raw] = true
  end
  if #twice > 0 then return fault("offset", some(twice) .. ", twice", "listed once") end
end)
rule("PKT-16", "packet",
  function(c, e)
    return known(c, e) and e.normal_pages > 0 and masked(e.flags, METHOD_MASK) == 0
  end,
  function(_, e)
    if e.next_packet_size ~= e.payload then
      return fault("next_packet_size", e.next_packet_size, e.payload)
    end
  end)
rule("PKT-17", "packet", function(c, e) return known(c, e) and e.normal_pages == 0 end,
  function(c, e)
    if e.next_packet_size ~= 0 then -- what came right before may be hidden by a gap
      local stale = not c.follows or (c.last and c.last.next_packet_size == e.next_packet_size)
      return fault("next_packet_size", e.next_packet_size, 0,
        { quirk = stale and "stale-next-packet-size" or nil })
    end
  end)
rule("PKT-18", "packet", function(_, e) return e.unused_offsets end, function(_, e)
  if #e.unused_offsets > 0 then
    return fault("unused offset", some(e.unused_offsets), 0, { quirk = "stale-offsets" })
  end
end)
rule("PKT-19", "packet", known, function(c, e)
  if e.pages == 0 and not e.sync then
    local last = c.last
    local trailer = not c.follows or (last and last.sync and last.packet_num == e.packet_num)
    return fault("content of the packet", "neither pages nor SYNC", "one of them",
      { quirk = trailer and "empty-trailer" or nil })
  end
end)
rule("PKT-20", "packet", function(c, e) return known(c, e) and c.last ~= nil end, function(c, e)
  if e.packet_num <= c.last.packet_num then
    return fault("packet_num", e.packet_num,
      string.format("above %s, the channel's last", tostring(c.last.packet_num)),
      { quirk = e.packet_num == c.last.packet_num and "shared-packet-numbers" or nil })
  end
end)
rule("PAY-1", "packet", has_pages, function(_, e)
  if not e.method then
    return fault("method field of flags", string.format("0x%x", masked(e.flags, METHOD_MASK)),
      "that of one method")
  end
end)
rule("PAY-2", "packet", function(c, e) return has_pages(c, e) and c.migration.method end,
  function(c, e)
    if e.method and e.method ~= c.migration.method then
      return fault("payload method", e.method.name, c.migration.method.name .. ", as before")
    end
  end)
rule("PAY-11", "packet",
  function(c, e) return has_pages(c, e) and e.normal_pages > 0 and e.method and e.method.limit end,
  function(_, e)
    if e.next_packet_size > e.method.limit then
      return fault("next_packet_size", e.next_packet_size,
        string.format("at most %d with %s", e.method.limit, e.method.name))
    end
  end)
rule("SYNC-1", "packet", function(c) return c.whole and c.packets == 0 end, function(_, e)
  if not e.sync then
    return fault("first packet of the channel", string.format("flags 0x%x", e.flags), "SYNC")
  end
end)
rule("SYNC-2", "packet", function(c, e) return known(c, e) and e.sync end, function(_, e)
  if e.pages > 0 then
    return fault("number of pages of a SYNC packet", e.pages, 0, { quirk = "sync-with-pages" })
  end
end)
rule("SYNC-3", "packet", function(c, e) return known(c, e) and e.sync end, function(_, e)
  if masked(e.flags, METHOD_MASK) > 0 then -- bits without a meaning are PKT-3's
    return fault("flags word of a SYNC packet", string.format("0x%x", e.flags), "0x1",
      { quirk = e.pages > 0 and "sync-with-pages" or nil })
  end
end)
rule("SYNC-4", "packet", -- more than page_count is PKT-4's
  function(c, e) return known(c, e) and e.sync and e.pages == 0 and e.pages_alloc <= e.count end,
  function(_, e)
    local function wrong(dialect) return e.pages_alloc ~= (dialect.sync_alloc and e.count or 0) end
    return fault("pages_alloc of a SYNC packet", e.pages_alloc,
      string.format("0 since 9.2, %d before", e.count), { wrong = wrong })
  end)
rule("DEV-1", "device_state", nil, function(_, e)
  if e.idstr:byte(1) == 0 then return fault("idstr", "empty", "a name and NUL") end
  if not e.idstr:find("%z") then
    return fault("idstr", name_of(e.idstr:sub(1, 24)) .. "... without NUL", "a name and NUL")
  end
end)
rule("DEV-2", "device_state", nil, function(_, e)
  if e.sync then return fault("flags word", string.format("0x%x", e.flags), "without SYNC") end
end)
rule("DEV-3", "device_state", nil, function(_, e)
  if e.next_packet_size == 0 then return fault("next_packet_size", 0, "at least 1") end
end)
rule("DEV-4", "device_state", nil, function(c, e)
  if masked(e.flags, METHOD_MASK) > 0 then
    return fault("flags word", string.format("0x%x", e.flags), "without method bits")
  end
  local method = c.migration.method
  if method and method.flag ~= 0 then
    return fault("payload method of the migration", method.name, "none")
  end
end)
rule("MAIN-1", "main", nil, function(_, e)
  if e.version ~= STREAM_VERSION then
    return fault("stream version", e.version, STREAM_VERSION)
  end
end)

