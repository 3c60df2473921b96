-- Wireshark dissector of multifd, the wire protocol of QEMU's parallel live migration.
--
-- Written by `multifd render` from the layouts, release differences, payload methods and
-- requirements of multifd-proto: change those, or the template, never this file.
--
--     multifd wireshark install                      into the personal plugin folder, or
--     tshark -X lua_script:multifd.lua -r migration.pcap -Y multifd.violation
--
-- Theory of operation. A connection is recognised by its first bytes: QEVM is the main stream, the
-- multifd magic a channel. A channel is an init message, then packets: a head and its payload,
-- which is guest memory. Only heads are put together from segments; payload is hopped over by
-- sequence number, so that memory stays small, and a segment lost inside a payload costs nothing.
-- What a segment holds is found out once, on the first visit of its frame, and kept as a list of
-- items ("visit"); showing it, then or later, looks at that list and the frame's bytes alone. What
-- `multifd strip --slim` wrote are exported PDUs, a message each, whose tags take TCP's place.
--
-- SPDX-License-Identifier: GPL-2.0-or-later

---- rendered: what the bytes are, and what is demanded of them ------------------------------------

@data@
---- protocol, preferences, fields -----------------------------------------------------------------

local multifd = Proto("multifd", "QEMU multifd live migration")

local sizes = { { 1, "auto", 0 } }
for number, size in ipairs(PAGE_SIZES) do
  sizes[number + 1] = { number + 1, string.format("%dK", size / 1024), size }
end
local AUTO, BEFORE_9, SINCE_9 = 0, 1, 2
local dialects = { { 1, "auto", AUTO }, { 2, "before 9.0", BEFORE_9 }, { 3, "9.0+", SINCE_9 } }

multifd.prefs.page_size = Pref.enum(
  "Target page size", 0, "Page size of the guest; auto infers it from the packets", sizes, false)
multifd.prefs.dialect = Pref.enum(
  "QEMU release", AUTO, "Packets have zero_pages since 9.0; auto finds out what fits", dialects,
  false)
multifd.prefs.offsets = Pref.bool(
  "Each page as a field", false, "Add multifd.offset for every page, instead of ranges only: slow")
multifd.prefs.statistics = Pref.bool(
  "Print statistics", false, "tshark prints channels and rounds at the end")

local FIELDS = {
  stream = ProtoField.uint32("multifd.stream", "Stream", base.DEC, nil, 0, "number of its connection"),
  channel = ProtoField.uint8("multifd.channel", "Channel", base.DEC, nil, 0, "id of its init"),
  round = ProtoField.uint32("multifd.round", "Round", base.DEC, nil, 0, "SYNC packets before it"),
  pages = ProtoField.uint32("multifd.pages", "Pages", base.DEC, nil, 0, "normal and zero pages"),
  pages_total = ProtoField.uint64("multifd.pages_total", "Pages so far", base.DEC, nil, nil,
    "normal and zero pages of the channel, up to this packet"),
  page_size = ProtoField.uint32("multifd.page_size", "Page size"),
  method = ProtoField.string("multifd.method", "Payload method"),
  pages_at = ProtoField.string("multifd.pages_at", "Pages at", base.UNICODE,
    "run of pages, by offset in the RAM block"),
  payload = ProtoField.uint32("multifd.payload", "Payload", base.DEC, nil, 0, "bytes that follow"),
  payload_data = ProtoField.bytes("multifd.payload_data", "Payload in this segment"),
  payload_of = ProtoField.framenum("multifd.payload_of", "Payload of the packet in frame"),
  missing = ProtoField.string("multifd.missing", "Missing"),
  violation = ProtoField.string("multifd.violation", "Violation", base.UNICODE,
    "id of the requirement"),
  requirement = ProtoField.string("multifd.requirement", "Requirement"),
  deviation = ProtoField.string("multifd.known_deviation", "Known deviation"),
  main_magic = ProtoField.string("multifd.main.magic", "Magic"),
  main_version = ProtoField.uint32("multifd.main.version", "Version"),
  main_machine = ProtoField.string("multifd.main.machine", "Machine type"),
  main_command = ProtoField.uint16("multifd.main.command", "Command", base.DEC, COMMANDS),
  main_section = ProtoField.string("multifd.main.section", "Section"),
  main_block = ProtoField.string("multifd.main.ramblock", "RAM block"),
  main_block_length = ProtoField.uint64("multifd.main.ramblock.length", "Length", base.HEX),
  flag_sync = ProtoField.bool("multifd.flags.sync", "SYNC", 32, nil, FLAG_SYNC),
  flag_method = ProtoField.uint32("multifd.flags.method", "Payload method", base.DEC,
    METHOD_NAMES, METHOD_MASK),
  flag_device_state = ProtoField.bool("multifd.flags.device_state", "DEVICE_STATE", 32, nil,
    FLAG_DEVICE_STATE),
  flag_unknown = ProtoField.uint32("multifd.flags.unknown", "Without a meaning", base.HEX, nil,
    4294967295 - FLAG_SYNC - METHOD_MASK - FLAG_DEVICE_STATE),
}
local function integer(make, form, mask)
  return function(row) return make(row.abbr, row.name, form, nil, mask, row.meaning) end
end
local MAKE = {
  hex = integer(ProtoField.uint32, base.HEX, 0),
  u8 = integer(ProtoField.uint8, base.DEC, 0),
  u32be = integer(ProtoField.uint32, base.DEC, 0),
  u64be = integer(ProtoField.uint64, base.DEC),
  offset = integer(ProtoField.uint64, base.HEX),
  uuid = function(row) return ProtoField.guid(row.abbr, row.name, row.meaning) end,
  name = function(row) return ProtoField.string(row.abbr, row.name, base.UNICODE, row.meaning) end,
  bytes = function(row) return ProtoField.bytes(row.abbr, row.name, base.NONE, row.meaning) end,
}
for _, layout in pairs(LAYOUTS) do
  for _, row in ipairs(layout.rows) do
    FIELDS[row.abbr] = FIELDS[row.abbr] or MAKE[row.kind](row) -- two layouts share most of theirs
    layout[row.name] = row
  end
end
multifd.fields = FIELDS

local SEVERITY = { MUST = expert.severity.ERROR, SHOULD = expert.severity.WARN }
local BROKEN, EXCUSED = {}, {}
local experts = {}
for id, requirement in pairs(REQUIREMENTS) do
  local abbr = id:lower():gsub("-", "_")
  BROKEN[id] = ProtoExpert.new("multifd.violates." .. abbr, id .. ": " .. requirement.text,
    expert.group.PROTOCOL, SEVERITY[requirement.level])
  EXCUSED[id] = ProtoExpert.new("multifd.deviates." .. abbr, id .. ", known deviation",
    expert.group.PROTOCOL, expert.severity.NOTE)
  table.insert(experts, BROKEN[id])
  table.insert(experts, EXCUSED[id])
end
multifd.experts = experts

local exported_pdu = Field.new("exported_pdu")
local tcp = {
  stream = Field.new("tcp.stream"),
  seq = Field.new("tcp.seq"),
  len = Field.new("tcp.len"),
  flags = Field.new("tcp.flags"),
  completeness = Field.new("tcp.completeness"),
}

local function value_of_last(...)
  local count = select("#", ...)
  return count > 0 and select(count, ...).value or nil
end

-- Return a field of the innermost TCP header.
local function tcp_value(name) return value_of_last(tcp[name]()) end

