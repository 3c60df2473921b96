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

local MAGIC = 287454020
local VERSION = 1
local START = "\017\034\051\068\000\000\000\001"
local PACKET_SIZE = 524288
local FLAG_SYNC = 1
local METHOD_MASK = 62
local FLAG_DEVICE_STATE = 64
local PAGE_SIZES = { 1024, 2048, 4096, 8192, 16384, 32768, 65536 }
local PAGE_COUNTS = { 8, 16, 32, 64, 128, 256, 512 }
local PDU_END = 0
local PDU_TCP_INFO = 34
local STREAM_MAGIC = "QEVM"
local STREAM_VERSION = 3
local MAX_CONFIGURATION = 1024
local RECORD_SECTION_START = 1
local RECORD_CONFIGURATION = 7
local RECORD_COMMAND = 8
local RAM_MEM_SIZE = 4
local LAYOUTS = {
  init = { size = 64, rows = { { name = "magic", abbr = "multifd.init.magic", offset = 0, size = 4, kind = "hex", meaning = "0x11223344" }, { name = "version", abbr = "multifd.init.version", offset = 4, size = 4, kind = "u32be", meaning = "protocol version, 1" }, { name = "uuid", abbr = "multifd.init.uuid", offset = 8, size = 16, kind = "uuid", meaning = "UUID of the virtual machine, in text order" }, { name = "id", abbr = "multifd.init.id", offset = 24, size = 1, kind = "u8", meaning = "number of this channel, from 0" }, { name = "unused1", abbr = "multifd.init.unused1", offset = 25, size = 7, kind = "bytes", meaning = "reserved" }, { name = "unused2", abbr = "multifd.init.unused2", offset = 32, size = 32, kind = "bytes", meaning = "reserved (4 x u64)" } } },
  packet = { size = 320, rows = { { name = "magic", abbr = "multifd.magic", offset = 0, size = 4, kind = "hex", meaning = "0x11223344" }, { name = "version", abbr = "multifd.version", offset = 4, size = 4, kind = "u32be", meaning = "protocol version, 1" }, { name = "flags", abbr = "multifd.flags", offset = 8, size = 4, kind = "hex", meaning = "bit 0 SYNC, bits 1 to 5 payload method, bit 6 DEVICE_STATE" }, { name = "pages_alloc", abbr = "multifd.pages_alloc", offset = 12, size = 4, kind = "u32be", meaning = "pages that the packet has room for: page_count" }, { name = "normal_pages", abbr = "multifd.normal_pages", offset = 16, size = 4, kind = "u32be", meaning = "pages with content, whose bytes follow as payload" }, { name = "next_packet_size", abbr = "multifd.next_packet_size", offset = 20, size = 4, kind = "u32be", meaning = "bytes of payload that follow" }, { name = "packet_num", abbr = "multifd.packet_num", offset = 24, size = 8, kind = "u64be", meaning = "number of the packet in the whole migration" }, { name = "zero_pages", abbr = "multifd.zero_pages", offset = 32, size = 4, kind = "u32be", meaning = "pages of zeros, which have no payload" }, { name = "unused32", abbr = "multifd.unused32", offset = 36, size = 4, kind = "bytes", meaning = "reserved (1 x u32)" }, { name = "unused64", abbr = "multifd.unused64", offset = 40, size = 24, kind = "bytes", meaning = "reserved (3 x u64)" }, { name = "ramblock", abbr = "multifd.ramblock", offset = 64, size = 256, kind = "name", meaning = "name of the RAM block, padded with NUL" }, { name = "offset", abbr = "multifd.offset", offset = 320, size = 0, kind = "offset", meaning = "offsets in the block, in bytes: of the normal pages, then of the zero pages" } } },
  packet_before_9 = { size = 320, rows = { { name = "magic", abbr = "multifd.magic", offset = 0, size = 4, kind = "hex", meaning = "0x11223344" }, { name = "version", abbr = "multifd.version", offset = 4, size = 4, kind = "u32be", meaning = "protocol version, 1" }, { name = "flags", abbr = "multifd.flags", offset = 8, size = 4, kind = "hex", meaning = "bit 0 SYNC, bits 1 to 5 payload method, bit 6 DEVICE_STATE" }, { name = "pages_alloc", abbr = "multifd.pages_alloc", offset = 12, size = 4, kind = "u32be", meaning = "pages that the packet has room for: page_count" }, { name = "normal_pages", abbr = "multifd.normal_pages", offset = 16, size = 4, kind = "u32be", meaning = "pages with content, whose bytes follow as payload" }, { name = "next_packet_size", abbr = "multifd.next_packet_size", offset = 20, size = 4, kind = "u32be", meaning = "bytes of payload that follow" }, { name = "packet_num", abbr = "multifd.packet_num", offset = 24, size = 8, kind = "u64be", meaning = "number of the packet in the whole migration" }, { name = "unused", abbr = "multifd.unused", offset = 32, size = 32, kind = "bytes", meaning = "reserved (4 x u64)" }, { name = "ramblock", abbr = "multifd.ramblock", offset = 64, size = 256, kind = "name", meaning = "name of the RAM block, padded with NUL" }, { name = "offset", abbr = "multifd.offset", offset = 320, size = 0, kind = "offset", meaning = "offsets in the block, in bytes: of the normal pages" } } },
  device_state = { size = 276, rows = { { name = "magic", abbr = "multifd.magic", offset = 0, size = 4, kind = "hex", meaning = "0x11223344" }, { name = "version", abbr = "multifd.version", offset = 4, size = 4, kind = "u32be", meaning = "protocol version, 1" }, { name = "flags", abbr = "multifd.flags", offset = 8, size = 4, kind = "hex", meaning = "0x40 (DEVICE_STATE)" }, { name = "idstr", abbr = "multifd.idstr", offset = 12, size = 256, kind = "name", meaning = "name of the device, NUL-terminated" }, { name = "instance_id", abbr = "multifd.instance_id", offset = 268, size = 4, kind = "u32be", meaning = "instance of the device" }, { name = "next_packet_size", abbr = "multifd.next_packet_size", offset = 272, size = 4, kind = "u32be", meaning = "bytes of opaque device data that follow" } } },
}
local METHODS = {
  { name = "none", flag = 0 },
  { name = "zlib", flag = 2, limit = 1048576 },
  { name = "zstd", flag = 4, limit = 1048576 },
  { name = "qpl", flag = 8, limit = 526336 },
  { name = "uadk", flag = 16, limit = 526336 },
  { name = "qatzip", flag = 32, limit = 1048576 },
}
local METHOD_NAMES = {
  [0] = "none",
  [1] = "zlib",
  [2] = "zstd",
  [4] = "qpl",
  [8] = "uadk",
  [16] = "qatzip",
}
local COMMANDS = {
  [1] = "OPEN_RETURN_PATH",
  [2] = "PING",
  [3] = "POSTCOPY_ADVISE",
  [4] = "POSTCOPY_LISTEN",
  [5] = "POSTCOPY_RUN",
  [6] = "POSTCOPY_RAM_DISCARD",
  [7] = "PACKAGED",
  [8] = "ENABLE_COLO",
  [9] = "POSTCOPY_RESUME",
  [10] = "RECV_BITMAP",
  [11] = "SWITCHOVER_START",
}
local DIALECTS = {
  { name = "4.0", flags = 1, zero_pages = false, sync_alloc = true },
  { name = "5.0", flags = 15, zero_pages = false, sync_alloc = true },
  { name = "7.0", flags = 15, zero_pages = false, sync_alloc = true },
  { name = "8.1", flags = 15, zero_pages = false, sync_alloc = true },
  { name = "8.2", flags = 15, zero_pages = false, sync_alloc = true },
  { name = "seed", flags = 15, zero_pages = false, sync_alloc = true },
  { name = "9.0", flags = 15, zero_pages = true, sync_alloc = true },
  { name = "9.1", flags = 31, zero_pages = true, sync_alloc = true },
  { name = "9.2", flags = 63, zero_pages = true, sync_alloc = false },
  { name = "10.0", flags = 127, zero_pages = true, sync_alloc = false },
  { name = "10.1", flags = 127, zero_pages = true, sync_alloc = false },
  { name = "11.0", flags = 127, zero_pages = true, sync_alloc = false },
  { name = "11.1", flags = 127, zero_pages = true, sync_alloc = false },
}
local QUIRKS = {
  ["reserved-init-bytes"] = { dialects = { "4.0" }, reason = "the reserved bytes of the init are not initialised: bytes of the stack leak" },
  ["stale-next-packet-size"] = { dialects = { "5.0", "7.0", "8.1" }, reason = "a packet without pages repeats the next_packet_size of the packet before it" },
  ["stale-offsets"] = { dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1" }, reason = "the packet's buffer is used again without clearing it" },
  ["empty-trailer"] = { dialects = { "4.0", "5.0", "7.0", "8.1", "8.2" }, reason = "after a SYNC that took pages along, an empty packet with the same packet_num follows" },
  ["sync-with-pages"] = { dialects = { "4.0", "5.0", "7.0", "8.1", "8.2" }, reason = "a SYNC that meets a page job in its channel travels in the same packet" },
  ["shared-packet-numbers"] = { dialects = { "4.0", "5.0", "7.0", "8.1", "8.2" }, reason = "one slot a channel holds the number: a SYNC overwrites that of a waiting page job" },
}
local REQUIREMENTS = {
  ["CHAN-2"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A receiver MUST NOT write any byte of its own on a multifd channel." },
  ["CHAN-1"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST end a channel only after the last byte of a packet and its payload." },
  ["INIT-8"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT end a channel before the 64 bytes of its init message are written." },
  ["INIT-1"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST write `0x11223344` into `magic`." },
  ["INIT-2"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST write 1 into `version`." },
  ["INIT-7"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST write zeros into `unused1` and `unused2`." },
  ["PKT-1"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST start every packet with `0x11223344` in `magic`." },
  ["PKT-2"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST write 1 into the `version` of every packet." },
  ["PKT-3"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT set a bit of `flags` that has no meaning in its dialect." },
  ["PKT-4"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT write more than page_count into `pages_alloc`." },
  ["PKT-5"] = { level = "SHOULD", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender SHOULD write page_count into the `pages_alloc` of every packet that has pages." },
  ["PKT-6"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT write more than `pages_alloc` into `normal_pages`." },
  ["PKT-7"] = { level = "MUST", dialects = { "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT write more than `pages_alloc` minus `normal_pages` into `zero_pages`." },
  ["PKT-19"] = { level = "SHOULD", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender SHOULD NOT send a RAM packet that has neither pages nor SYNC." },
  ["PKT-16"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender that does not compress MUST write `normal_pages` times the page size into `next_packet_size` of every packet that has normal pages." },
  ["PKT-17"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST write 0 into `next_packet_size` of a packet that has no normal pages." },
  ["PKT-9"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST put a NUL into the 256 bytes of `ramblock` of every packet that has pages." },
  ["PKT-10"] = { level = "SHOULD", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender SHOULD fill `ramblock` with NUL after the name." },
  ["PKT-14"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST make every offset of a page a multiple of the page size." },
  ["PKT-15"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT list an offset twice in a packet." },
  ["PKT-8"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST write zeros into the reserved bytes of a packet; before 9.0 these include the place of `zero_pages`." },
  ["PKT-18"] = { level = "SHOULD", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender SHOULD write 0 into every element of `offset` after those of its pages." },
  ["PAY-1"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST set the method bits of `flags`, in every packet that has pages, to the value of exactly one payload method of its dialect." },
  ["PAY-2"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST use the same payload method in all packets with pages of a migration: the one that both ends are configured for." },
  ["PAY-11"] = { level = "MUST", dialects = { "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender that compresses MUST NOT write more into `next_packet_size` than the method's limit." },
  ["SYNC-1"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST make the first packet of every channel a SYNC packet." },
  ["SYNC-3"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT set any other bit of `flags` in a SYNC packet." },
  ["SYNC-2"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT put pages into a SYNC packet." },
  ["SYNC-4"] = { level = "SHOULD", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender SHOULD write 0 into `pages_alloc` of a SYNC packet since 9.2, and page_count before." },
  ["PKT-20"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST give each RAM packet a higher `packet_num` than the RAM packet before it on the same channel." },
  ["MAIN-1"] = { level = "MUST", dialects = { "4.0", "5.0", "7.0", "8.1", "8.2", "seed", "9.0", "9.1", "9.2", "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST start the main stream with `QEVM` and version 3." },
  ["DEV-4"] = { level = "MUST", dialects = { "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT send device-state packets in a migration whose pages are compressed, nor set method bits in them." },
  ["DEV-1"] = { level = "MUST", dialects = { "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST put a name of at least one byte, and a NUL, into the 256 bytes of `idstr`." },
  ["DEV-2"] = { level = "MUST", dialects = { "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT set SYNC in a device-state packet." },
  ["DEV-3"] = { level = "MUST", dialects = { "10.0", "10.1", "11.0", "11.1" }, text = "A sender MUST NOT send a device-state packet whose `next_packet_size` is 0." },
}
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

---- small change ----------------------------------------------------------------------------------

local NUL8 = string.rep("\0", 8)
local PACKET, INIT, DEVICE = LAYOUTS.packet, LAYOUTS.init, LAYOUTS.device_state
local HEADER = PACKET.flags.offset + 4 -- leading bytes that all packets share
local HOP = PACKET.next_packet_size.offset + 4 -- leading bytes that tell where the next packet is

local TCP_FIN, TCP_SYN, TCP_RESET = 1, 2, 4

local function has(flags, bit) return math.floor(flags / bit) % 2 == 1 end

-- Return the bits of flags that are in a mask; no release of Lua in Wireshark shares its operators.
local function masked(flags, mask)
  local kept, bit = 0, 1
  while bit <= mask do
    if has(flags, bit) and has(mask, bit) then kept = kept + bit end
    bit = bit * 2
  end
  return kept
end

local function number(raw)
  local value = 0
  for place = 1, #raw do value = value * 256 + raw:byte(place) end
  return value
end

-- Return the number, rounded above 2^53, at a place of a list of u64; and its lower half.
local function offset_at(raw, place)
  local a, b, c, d, e, f, g, h = raw:byte(8 * place - 7, 8 * place)
  local low = ((e * 256 + f) * 256 + g) * 256 + h
  return (((a * 256 + b) * 256 + c) * 256 + d) * 4294967296.0 + low, low
end

local function raw_offset(e, place) return e.raw_offsets:sub(8 * place - 7, 8 * place) end

-- Return bytes as a hexadecimal number; eight bytes do not always fit a number of Lua's.
local function hex(raw)
  local digits = raw:gsub(".", function(c) return string.format("%02x", c:byte()) end)
  return "0x" .. (digits:gsub("^0+(.)", "%1"))
end

local function bytes_hex(raw)
  return (raw:gsub(".", function(c) return string.format("%02x", c:byte()) end))
end

-- Return what stands before the first NUL, in a form that can be printed.
local function name_of(raw)
  local name = raw:match("^[^%z]*")
  return (name:gsub("[%c\127-\255]", function(c) return string.format("\\x%02x", c:byte()) end))
end

local function is_zero(raw) return not raw:find("[^%z]") end

local function contains(list, value)
  for _, item in ipairs(list) do
    if item == value then return true end
  end
  return false
end

local function page_count(page_size) return math.floor(PACKET_SIZE / page_size) end

local function head_size(count) return PACKET.size + 8 * count end

---- state: connections and migrations -------------------------------------------------------------

local function new_state()
  local exported = { frames = {}, conversations = {}, count = 0 }
  return { streams = {}, numbers = {}, migrations = {}, exported = exported }
end

local state = new_state()

function multifd.init() state = new_state() end

-- Return the dialects that the preference allows, oldest first.
local function preferred()
  local all = {}
  for _, dialect in ipairs(DIALECTS) do
    local choice = multifd.prefs.dialect
    if choice == AUTO or dialect.zero_pages == (choice == SINCE_9) then
      table.insert(all, dialect)
    end
  end
  return all
end

-- Return the migration of a connection: that between the same hosts, to the same port. A main
-- stream where there is one already begins the next.
local function migration_of(pinfo, main)
  local key = string.format("%s>%s:%d", tostring(pinfo.src), tostring(pinfo.dst), pinfo.dst_port)
  local migration = state.migrations[key]
  if not migration or (main and migration.main) then
    local size = multifd.prefs.page_size
    migration = { dialects = preferred(), count = size > 0 and page_count(size) or nil }
    state.migrations[key] = migration
  end
  migration.main = migration.main or main
  return migration
end

-- Return which end sends; addresses as text are slow, and seldom needed.
local function direction_of(pinfo)
  local port = pinfo.src_port
  return port ~= pinfo.dst_port and port or tostring(pinfo.src)
end

-- Return a new connection. `start`: its first byte is there. Positions count from any place.
local function open(pinfo, segment, kind, start)
  local c = {
    kind = kind, stream = segment.stream, direction = direction_of(pinfo),
    migration = migration_of(pinfo, kind == "main"),
    state = start and "init" or "lost", whole = start, searched = not start,
    round = start and 0 or nil, follows = true,
    packets = 0, syncs = 0, normal = 0, zero = 0, bytes = 0, reverse = 0, violations = 0,
    rounds = {}, visits = {}, ends = {},
  }
  state.streams[c.stream] = c
  table.insert(state.numbers, c.stream)
  return c
end

-- Return the conversation of an exported PDU. A SYN where there were bytes begins another.
local function conversation_of(pinfo, seq, syn)
  local exported = state.exported
  local from = string.format("%s:%d", tostring(pinfo.src), pinfo.src_port)
  local to = string.format("%s:%d", tostring(pinfo.dst), pinfo.dst_port)
  local key = from < to and from .. " " .. to or to .. " " .. from
  local conversation = exported.conversations[key]
  local first = conversation and conversation.first[from]
  if not conversation or (syn and first and first ~= seq + 1) then
    conversation = { stream = exported.count, first = {}, anchored = {} }
    exported.conversations[key], exported.count = conversation, exported.count + 1
  end
  conversation.first[from] = conversation.first[from] or (syn and seq + 1 or seq)
  conversation.anchored[from] = conversation.anchored[from] or syn
  local anchored = conversation.anchored[from] and conversation.first[from] % 4294967296 == seq
  return conversation.stream, anchored
end

-- Return the value of a tag of an exported PDU.
local function tag_of(range, wanted)
  local at = 0
  while at + 4 <= range:len() do
    local tag, size = range(at, 2):uint(), range(at + 2, 2):uint()
    if tag == wanted then return at + 4 + size <= range:len() and range(at + 4, size) or nil end
    if tag == PDU_END then return nil end
    at = at + 4 + size
  end
end

-- Return where a message that `multifd strip --slim` wrote stands in its stream: there is no TCP.
local function exported_segment(pinfo, pdu)
  local frames = state.exported.frames
  if frames[pinfo.number] then return frames[pinfo.number] end
  local info = tag_of(pdu.range, PDU_TCP_INFO)
  if not info or info:len() < 17 then return nil end
  local seq, behind, flags = info(2, 4):uint(), info(6, 4):uint(), info(15, 2):uint()
  local stream, anchored = conversation_of(pinfo, seq, has(flags, TCP_SYN))
  frames[pinfo.number] = {
    stream = stream, seq = seq, len = (behind - seq) % 4294967296, flags = flags,
    anchored = anchored, exported = true,
  }
  return frames[pinfo.number]
end

-- Return where the bytes of a frame stand in a stream, and whether they begin it, which only the
-- handshake tells; nil: nowhere. The first of two passes of a tshark without filters knows no
-- fields: the second finds out then.
local function segment_of(pinfo)
  local stream = tcp_value("stream")
  if not stream then
    local pdu = exported_pdu()
    return pdu and exported_segment(pinfo, pdu)
  end
  local seq = tcp_value("seq")
  return {
    stream = stream, seq = seq, len = tcp_value("len"), flags = tcp_value("flags"),
    anchored = seq == 1 and has(tcp_value("completeness") or 0, 1),
  }
end

-- Return the place of a sequence number in a stream that may be longer than 4 GiB.
local function position(c, seq)
  c.near = c.near or seq
  local ahead = (seq - c.near) % 4294967296
  if ahead >= 2147483648 then ahead = ahead - 4294967296 end
  local place = c.near + ahead
  if ahead > 0 then c.near = place end
  return place
end

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

---- reading one message ---------------------------------------------------------------------------

local function u32(tvb, at, row) return tvb(at + row.offset, 4):uint() end

local function is_start(tvb, at, have) return have >= 8 and tvb:raw(at, 8) == START end

local function read_init(tvb, at)
  return {
    kind = "init", violations = {}, magic = u32(tvb, at, INIT.magic),
    version = u32(tvb, at, INIT.version), id = tvb(at + INIT.id.offset, 1):uint(),
    reserved = tvb:raw(at + INIT.unused1.offset, INIT.unused1.size + INIT.unused2.size),
  }
end

local function read_header(tvb, at)
  local e = {
    violations = {}, magic = u32(tvb, at, PACKET.magic), version = u32(tvb, at, PACKET.version),
    flags = u32(tvb, at, PACKET.flags),
  }
  e.sync = has(e.flags, FLAG_SYNC)
  return e
end

local function read_device_state(tvb, at, e)
  e.kind, e.known, e.head = "device_state", DEVICE.size, DEVICE.size
  e.idstr = tvb:raw(at + DEVICE.idstr.offset, DEVICE.idstr.size)
  e.next_packet_size = u32(tvb, at, DEVICE.next_packet_size)
  e.payload = e.next_packet_size
end

local function method_of(flags)
  for _, method in ipairs(METHODS) do
    if method.flag == masked(flags, METHOD_MASK) then return method end
  end
end

-- Read the offsets of pages, the raw ones as well, and what stands behind them and is not zero.
local function read_offsets(tvb, at, e)
  e.raw_offsets = tvb:raw(at + PACKET.size, 8 * e.count)
  e.offsets = {}
  for place = 1, math.min(e.pages, e.count) do e.offsets[place] = offset_at(e.raw_offsets, place) end
  if e.pages <= 512 then
    e.unused_offsets = {}
    local first = e.raw_offsets:find("[^%z]", 8 * e.pages + 1)
    for place = first and math.floor((first + 7) / 8) or e.count + 1, e.count do
      local raw = raw_offset(e, place)
      if raw ~= NUL8 then table.insert(e.unused_offsets, hex(raw)) end
    end
  end
end

-- Forget what only judging needs: there are as many packets as the capture holds.
local function forget(e)
  e.raw_offsets, e.offsets, e.unused_offsets, e.ramblock, e.reserved = nil, nil, nil, nil, nil
end

-- Read a RAM packet of which e.known leading bytes are there; HOP of them at least.
local function read_packet(tvb, at, e, count)
  e.kind, e.count, e.head = "packet", count, head_size(count)
  e.page_size = math.floor(PACKET_SIZE / count)
  e.pages_alloc = u32(tvb, at, PACKET.pages_alloc)
  e.normal_pages = u32(tvb, at, PACKET.normal_pages)
  e.next_packet_size = u32(tvb, at, PACKET.next_packet_size)
  e.zero_pages, e.method = 0, method_of(e.flags)
  if known(nil, e) then
    local before_9 = multifd.prefs.dialect == BEFORE_9
    local reserved = before_9 and LAYOUTS.packet_before_9.unused or PACKET.unused32
    if not before_9 then e.zero_pages = u32(tvb, at, PACKET.zero_pages) end
    e.packet_num = tvb(at + PACKET.packet_num.offset, 8):uint64()
    e.reserved = tvb:raw(at + reserved.offset, PACKET.ramblock.offset - reserved.offset)
  end
  e.pages = e.normal_pages + e.zero_pages
  local names = PACKET.ramblock
  if e.known >= names.offset + names.size then
    e.ramblock = tvb:raw(at + names.offset, names.size)
    e.block = name_of(e.ramblock)
  end
  if e.known >= e.head then read_offsets(tvb, at, e) end
  e.payload = e.normal_pages > 0 and e.next_packet_size or 0
  if e.method and e.method.flag == 0 then e.payload = e.normal_pages * e.page_size end
end

---- finding one's place ---------------------------------------------------------------------------

-- Return page_count as the packet itself says it, which SYNC packets since 9.2 do not, or the place
-- where the next one starts.
local function told_count(tvb, at, have)
  local alloc = u32(tvb, at, PACKET.pages_alloc)
  if contains(PAGE_COUNTS, alloc) then return alloc end
  for _, count in ipairs(PAGE_COUNTS) do
    if is_start(tvb, at + head_size(count), have - head_size(count)) then return count end
  end
end

-- Return page_count of the first packet of a migration, nil while more bytes may tell.
local function infer_count(tvb, at, left, have)
  local usual, told = page_count(4096), told_count(tvb, at, have)
  if told then return told end
  if left == head_size(usual) then return usual end -- written by itself, sent by itself
  for _, count in ipairs(PAGE_COUNTS) do
    if left == head_size(count) then return count end
  end
  return left >= head_size(PAGE_COUNTS[#PAGE_COUNTS]) + 8 and usual or nil
end

local function is_name(raw)
  local name, padding = raw:match("^([^%z]+)(%z.*)$")
  return name and is_zero(padding) and not name:find("[\128-\255]")
end

-- Tell whether guest memory that looks like a packet may be one, as all its fields make sense.
local function is_plausible(e)
  if not (e.flags < FLAG_DEVICE_STATE and (e.pages_alloc == 0 or e.pages_alloc == e.count)
      and e.pages <= e.pages_alloc and is_zero(e.reserved)
      and (e.pages == 0 or is_name(e.ramblock))) then
    return false
  end
  local seen = {}
  for place = 1, #e.offsets do
    local raw = raw_offset(e, place)
    if seen[raw] or number(raw:sub(7)) % PAGE_SIZES[1] ~= 0 then return false end
    seen[raw] = true
  end
  return true
end

-- Return the packet at a place that a search has come to; nil: none; and the bytes that it needs,
-- if that is more than there are.
local function candidate(tvb, at, have, count)
  if have < HOP then return nil, HOP end
  local e = read_header(tvb, at)
  if e.flags == FLAG_DEVICE_STATE then
    if have < DEVICE.size then return nil, DEVICE.size end
    read_device_state(tvb, at, e)
    return is_name(e.idstr) and e.payload > 0 and e or nil
  end
  count = count or told_count(tvb, at, have)
  if not count then return nil end
  if have < head_size(count) then return nil, head_size(count) end
  e.known = head_size(count)
  read_packet(tvb, at, e, count)
  return is_plausible(e) and e or nil
end

-- Bytes are missing, so that nobody knows where the next packet starts.
local function lose_place(c)
  c.state, c.searched, c.whole, c.follows = "lost", true, false, false
  c.round, c.current = nil, nil
end

---- the first visit: what a segment holds ---------------------------------------------------------

local function add(visit, kind, at, length, e)
  local item = { kind = kind, at = at, length = length, e = e }
  table.insert(visit.items, item)
  return item
end

-- Ask TCP for a head of `need` bytes that starts at `at`; false where it cannot put it together.
local function want(c, tvb, pinfo, visit, at, need)
  if pinfo.can_desegment == 0 then return false end
  local left = tvb:reported_len() - at
  visit.more = { at = at, length = need - left }
  c.pending = { position = visit.start + at, raw = tvb:raw(at), need = need }
  return true
end

local function note_totals(c, e, pinfo)
  c.packets, c.bytes = c.packets + 1, c.bytes + e.payload
  c.first_time = c.first_time or pinfo.rel_ts
  c.last_time = pinfo.rel_ts
  if e.kind == "device_state" then return end
  c.normal, c.zero = c.normal + e.normal_pages, c.zero + e.zero_pages
  if e.round then
    local round = c.rounds[e.round] or { packets = 0, normal = 0, zero = 0, bytes = 0 }
    c.rounds[e.round] = round
    round.packets, round.bytes = round.packets + 1, round.bytes + e.payload
    round.normal, round.zero = round.normal + e.normal_pages, round.zero + e.zero_pages
  end
end

-- A packet's head is there: judge it, then remember it.
local function accept(c, e, pinfo, judged)
  e.frame, e.round = pinfo.number, c.round
  if judged then judge(c, "header", e) end
  if judged then judge(c, e.kind, e) end
  forget(e)
  note_totals(c, e, pinfo)
  e.total = c.normal + c.zero
  c.current, c.state = e, "packet"
  if e.kind == "device_state" then return end
  c.migration.count = c.migration.count or e.count
  if e.sync then
    c.syncs = c.syncs + 1
    c.round = c.round and c.round + 1
  end
  if known(c, e) then c.last, c.follows = e, true end
  if e.pages > 0 and not c.migration.method then c.migration.method = e.method end
  if e.normal_pages > e.count then c.state = "failed" end -- receivers close here
end

local function take_init(c, tvb, pinfo, visit, at)
  local left, have = tvb:reported_len() - at, tvb:captured_len() - at
  if left < INIT.size and want(c, tvb, pinfo, visit, at, INIT.size) then return nil end
  c.state, c.head, c.head_end = "packet", "init", visit.start + at + INIT.size
  if have >= INIT.size then
    local e = read_init(tvb, at)
    judge(c, "init", e)
    add(visit, "init", at, INIT.size, e)
    c.id = e.id
    if not is_start(tvb, at, have) then c.state = "failed" end
  end
  return INIT.size
end

-- Add a packet and as much of its payload as there is, and return their length.
local function add_packet(c, tvb, pinfo, visit, at, e, judged)
  accept(c, e, pinfo, judged)
  c.head, c.head_end = "packet head", visit.start + at + e.head
  add(visit, e.kind, at, e.head, e)
  local here = math.min(e.payload, tvb:reported_len() - at - e.head)
  if here > 0 and c.state ~= "failed" then add(visit, "payload", at + e.head, here, e) end
  return e.head + (c.state == "failed" and 0 or e.payload)
end

-- Return the size of the head at `at`, nil while only more bytes can tell.
local function size_of_head(c, tvb, at, left, have, e)
  if has(e.flags, FLAG_DEVICE_STATE) and multifd.prefs.dialect ~= BEFORE_9 then
    return DEVICE.size
  end
  c.migration.count = c.migration.count or infer_count(tvb, at, left, have)
  return c.migration.count and head_size(c.migration.count)
end

local function take_bad_header(c, tvb, visit, at, e)
  if c.searched then -- where a search has led, a wrong start says that the search was wrong
    lose_place(c)
    return 0
  end
  judge(c, "header", e)
  add(visit, "header", at, HEADER, e)
  c.state = "failed"
  return HEADER
end

local function take_packet(c, tvb, pinfo, visit, at)
  local left, have = tvb:reported_len() - at, tvb:captured_len() - at
  -- no head is shorter than that of device state
  if left < HOP and want(c, tvb, pinfo, visit, at, DEVICE.size) then return nil end
  local e = have >= HEADER and read_header(tvb, at)
  if e and not is_start(tvb, at, have) then return take_bad_header(c, tvb, visit, at, e) end
  if have < HOP then
    lose_place(c)
    return left
  end
  local size = size_of_head(c, tvb, at, left, have, e)
  if not size or left < size then
    if want(c, tvb, pinfo, visit, at, size or left + 1) then return nil end
    size = size or head_size(page_count(4096))
  end
  e.known = math.min(have, size)
  if size == DEVICE.size then
    if e.known < size then
      lose_place(c)
      return left
    end
    read_device_state(tvb, at, e)
  else
    read_packet(tvb, at, e, math.floor((size - PACKET.size) / 8))
  end
  return add_packet(c, tvb, pinfo, visit, at, e, true)
end

-- Look for the next packet. What is found by searching is not judged: it may be guest memory.
local function search(c, tvb, pinfo, visit, at)
  local data = tvb:raw(at)
  local place = 1
  while true do
    place = data:find(START, place, true)
    if not place then break end
    local here = at + place - 1
    local e, need = candidate(tvb, here, tvb:captured_len() - here, c.migration.count)
    if need and want(c, tvb, pinfo, visit, here, need) then
      if here > at then add(visit, "missing", at, here - at) end
      return nil, here
    end
    if e then
      if here > at then add(visit, "missing", at, here - at) end
      return here - at + add_packet(c, tvb, pinfo, visit, here, e, false)
    end
    place = place + 1
  end
  add(visit, "missing", at, tvb:reported_len() - at)
  return tvb:reported_len() - at
end

local function take_rest(_, tvb, _, visit, at)
  add(visit, "unread", at, tvb:reported_len() - at)
  return tvb:reported_len() - at
end

local TAKE = { init = take_init, packet = take_packet, lost = search, failed = take_rest }

-- A head that was waited for does not come: hop over its packet, if what there is of it tells where
-- it ends.
local function give_up(c)
  local waited = c.pending
  c.pending = nil
  lose_place(c)
  local raw, count = waited.raw, c.migration.count
  if waited.init or #raw < HOP or not count or raw:sub(1, 8) ~= START then return end
  local flags, normal = number(raw:sub(9, 12)), number(raw:sub(17, 20))
  local method = method_of(flags)
  if has(flags, FLAG_DEVICE_STATE) or not method or normal > count then return end
  local payload = normal > 0 and number(raw:sub(21, 24)) or 0
  if method.flag == 0 then payload = normal * math.floor(PACKET_SIZE / count) end
  c.next, c.state = waited.position + head_size(count) + payload, "packet"
end

-- Return the place of the first byte of a tvb, which is a segment, the last part of one, or a head
-- that TCP has put together.
local function start_of(c, tvb, segment)
  local size, waited = tvb:reported_len(), c.pending
  if waited and size >= math.min(waited.need, #waited.raw + 1)
      and tvb:captured_len() >= #waited.raw and tvb:raw(0, #waited.raw) == waited.raw then
    c.pending = nil
    return waited.position
  end
  if waited then give_up(c) end
  -- TCP has put segments in order that came out of it: they continue what has been seen
  if c.seen and size > segment.len then return c.seen end
  return position(c, segment.seq + segment.len - size)
end

local function walk(c, tvb, pinfo, segment)
  local visit = { items = {}, start = start_of(c, tvb, segment) }
  local size = tvb:reported_len()
  c.next = c.next or visit.start
  if c.next < visit.start then
    lose_place(c)
    c.next = visit.start
  end
  local at = c.next - visit.start
  c.seen = math.max(c.seen or 0, visit.start + size)
  if at > 0 then
    add(visit, c.current and "payload" or "unread", 0, math.min(at, size), c.current)
    if at >= size then return visit end
  end
  while at < size do
    local step, stop = TAKE[c.state](c, tvb, pinfo, visit, at)
    if not step then
      at = stop or at
      break
    end
    at = at + step
  end
  c.next = visit.start + at
  return visit
end

---- the main stream: its head, as far as its first segments hold it whole -------------------------

-- Note a field and its place; a tvb's own ranges do not outlive the visit.
local function note(found, name, range, value)
  table.insert(found, { name = name, at = range:offset(), length = range:len(), value = value })
end

-- Return a reader of a tvb's bytes whose functions return nil where they end.
local function reader(tvb, at)
  local r = { at = at }
  function r.range(size)
    if r.at + size > tvb:captured_len() then return nil end
    r.at = r.at + size
    return tvb(r.at - size, size)
  end
  function r.is_over() return r.at >= tvb:captured_len() end
  function r.name()
    local size = r.range(1)
    local range = size and r.range(size:uint())
    return range and range:len() > 0 and range:string() or nil, range
  end
  return r
end

-- Each of these functions returns the one that reads on: here, or in the next record of a slim file.
local read_record

local function read_configuration(r, found)
  local size = r.range(4)
  local range = size and size:uint() < MAX_CONFIGURATION and r.range(size:uint())
  if range then note(found, "main_machine", range, range:string()) end
  -- subsections have no length of their own: what follows is not looked at with them
  return range and read_record
end

local function read_command(r, found)
  local command, size = r.range(2), r.range(2)
  if not size then return nil end
  note(found, "main_command", command, command:uint())
  return r.range(size:uint()) and read_record
end

-- Read the list of RAM blocks that the section `ram` begins with.
local function read_blocks(r, found)
  if r.is_over() then return read_blocks end
  local word = r.range(8)
  if not word then return nil end
  local total = word:uint64():tonumber()
  local left = total - total % 1024
  while total % 8 >= RAM_MEM_SIZE and left > 0 do
    local name, range = r.name()
    local length = name and r.range(8)
    if not length then return nil end
    note(found, "main_block", range, name)
    note(found, "main_block_length", length, length:uint64())
    left = left - length:uint64():tonumber()
  end
end

local function read_section(r, found)
  local name, range
  if r.range(4) then name, range = r.name() end
  if not name or not r.range(8) then return nil end
  note(found, "main_section", range, name)
  return name == "ram" and read_blocks or nil
end

local RECORDS = {
  [RECORD_CONFIGURATION] = read_configuration,
  [RECORD_COMMAND] = read_command,
  [RECORD_SECTION_START] = read_section,
}

function read_record(r, found)
  local kind = r.range(1)
  local read = kind and RECORDS[kind:uint()]
  return read and read(r, found)
end

-- A message that `multifd strip --slim` wrote is a record, and the next is in the next frame.
local function walk_main(c, tvb, segment)
  local e = { violations = {}, found = {} }
  local visit = { items = {} }
  c.bytes = c.bytes + tvb:reported_len()
  add(visit, "main", 0, tvb:reported_len(), e)
  local r = reader(tvb, 0)
  if not c.begun and r.range(8) then
    e.version = tvb(4, 4):uint()
    judge(c, "main", e)
    c.read = read_record
  elseif not segment.exported then
    c.read = nil
  end
  c.begun = true
  while c.read and not r.is_over() do c.read = c.read(r, e.found) end
  return visit
end

---- showing ---------------------------------------------------------------------------------------

local function show_violations(item, e)
  for _, v in ipairs(e and e.violations or {}) do
    local line = item:add(FIELDS.violation, v.id):set_generated()
    line:set_text(v.message)
    line:add(FIELDS.requirement, REQUIREMENTS[v.id].text):set_generated()
    if v.quirk then
      line:add(FIELDS.deviation, v.quirk .. ": " .. QUIRKS[v.quirk].reason):set_generated()
    end
    line:add_proto_expert_info(v.quirk and EXCUSED[v.id] or BROKEN[v.id], v.message)
  end
end

local function show_flags(item, range)
  for _, name in ipairs({ "flag_sync", "flag_method", "flag_device_state", "flag_unknown" }) do
    item:add(FIELDS[name], range)
  end
end

-- Add the rows of a layout that were captured; offsets are shown elsewhere.
local function show_rows(item, tvb, at, layout, known_bytes)
  for _, row in ipairs(layout.rows) do
    if row.kind == "offset" or row.offset + row.size > known_bytes then break end
    local range, line = tvb(at + row.offset, row.size), nil
    if row.kind == "name" then
      line = item:add(FIELDS[row.abbr], range, name_of(range:raw()))
    else
      line = item:add(FIELDS[row.abbr], range)
    end
    if row.name == "flags" then show_flags(line, range) end
  end
end

-- Return the places where the runs of pages of a packet begin: of normal ones, then of zero ones.
local function runs_of(tvb, at, e)
  local there = math.min(e.pages, e.count)
  if e.known < e.head or there == 0 then return {} end
  local runs = { raw = tvb:raw(at + PACKET.size, 8 * there), stop = there + 1 }
  local due
  for place = 1, there do
    local offset = offset_at(runs.raw, place)
    if offset ~= due or place == e.normal_pages + 1 then table.insert(runs, place) end
    due = offset + e.page_size
  end
  return runs
end

-- Return a run as text, and its number of pages.
local function run_text(e, runs, index)
  local place, pages = runs[index], (runs[index + 1] or runs.stop) - runs[index]
  local first = offset_at(runs.raw, place)
  local last = first + pages * e.page_size - 1
  if last >= 9007199254740992 then
    return hex(runs.raw:sub(8 * place - 7, 8 * place)) .. " and on", pages
  end
  return string.format("0x%x-0x%x", first, last), pages
end

local function show_runs(list, tvb, at, e, runs)
  for index, place in ipairs(runs) do
    local text, pages = run_text(e, runs, index)
    local line = list:add(FIELDS.pages_at, tvb(at + 8 * (place - 1), 8 * pages), text)
    line:append_text(string.format(" (%d %s)", pages, place > e.normal_pages and "zero" or "normal"))
  end
end

local function show_pages(item, tvb, at, e, runs)
  if #runs == 0 then return end
  local there = runs.stop - 1
  local list = item:add(multifd, tvb(at + PACKET.size, 8 * there))
  list:set_text(string.format("Pages: %d normal, %d zero", e.normal_pages, e.zero_pages))
  -- there can be many: not where nobody asks for them
  if list:referenced(FIELDS.pages_at) then show_runs(list, tvb, at + PACKET.size, e, runs) end
  if multifd.prefs.offsets then
    for place = 1, there do
      list:add(FIELDS[PACKET.offset.abbr], tvb(at + PACKET.size + 8 * (place - 1), 8))
    end
  end
end

local function show_place(item, c, e)
  item:add(FIELDS.stream, c.stream):set_generated()
  if c.id then item:add(FIELDS.channel, c.id):set_generated() end
  if e and e.round then item:add(FIELDS.round, e.round):set_generated() end
end

local function packet_text(e, runs)
  local text = e.known >= PACKET.ramblock.offset and "#" .. tostring(e.packet_num) or "#?"
  if e.round then text = text .. " round " .. e.round end
  if e.sync then text = text .. " SYNC" end
  if e.pages > 0 then
    local what = e.pages == 1 and "page" or "pages"
    text = string.format("%s %d %s of %s", text, e.pages, what, e.block or "?")
    if runs[1] then text = text .. " " .. run_text(e, runs, 1) end
    if #runs > 1 then
      text = string.format("%s and %d more run%s", text, #runs - 1, #runs == 2 and "" or "s")
    end
  end
  if e.pages == 0 and not e.sync then text = text .. " without pages" end
  if e.method and e.method.flag ~= 0 then text = text .. " " .. e.method.name end
  return text
end

local SHOW, TEXT = {}, {}
local MESSAGES = { init = true, header = true, packet = true, device_state = true }

function SHOW.init(item, tvb, at, c)
  show_rows(item, tvb, at, INIT, INIT.size)
  show_place(item, c)
end
function TEXT.init() return "init" end

function SHOW.header(item, tvb, at, c)
  show_rows(item, tvb, at, PACKET, HEADER)
  show_place(item, c)
end
function TEXT.header() return "no packet" end

function SHOW.packet(item, tvb, at, c, e, _, runs)
  local layout = multifd.prefs.dialect == BEFORE_9 and LAYOUTS.packet_before_9 or PACKET
  show_rows(item, tvb, at, layout, e.known)
  show_place(item, c, e)
  item:add(FIELDS.pages, e.pages):set_generated()
  item:add(FIELDS.pages_total, UInt64(e.total)):set_generated()
  item:add(FIELDS.page_size, e.page_size):set_generated()
  if e.method then item:add(FIELDS.method, e.method.name):set_generated() end
  item:add(FIELDS.payload, e.payload):set_generated()
  show_pages(item, tvb, at, e, runs)
end
function TEXT.packet(_, e, runs) return packet_text(e, runs) end

function SHOW.device_state(item, tvb, at, c, e)
  show_rows(item, tvb, at, DEVICE, DEVICE.size)
  show_place(item, c, e)
  item:add(FIELDS.payload, e.payload):set_generated()
end
function TEXT.device_state(_, e)
  return string.format("device state of %s, %d bytes", name_of(e.idstr), e.payload)
end

function SHOW.payload(item, tvb, at, _, e, length)
  local there = math.min(length, tvb:captured_len() - at)
  if there > 0 then item:add(FIELDS.payload_data, tvb(at, there)) end
  item:add(FIELDS.payload_of, e.frame):set_generated()
end
function TEXT.payload(_, e)
  return e.kind == "packet" and "payload of #" .. tostring(e.packet_num or "?") or "device data"
end

function SHOW.missing(item) item:add(FIELDS.missing, "bytes were lost: looking for a packet") end
function TEXT.missing() return "after a loss" end

function SHOW.unread() end
function TEXT.unread(c) return c.state == "failed" and "cannot be followed" or "continued" end

function SHOW.reverse() end
function TEXT.reverse() return "from the receiver" end

function SHOW.main(item, tvb, _, _, e)
  if e.version then
    item:add(FIELDS.main_magic, tvb(0, 4))
    item:add(FIELDS.main_version, tvb(4, 4))
  end
  for _, found in ipairs(e.found) do
    item:add(FIELDS[found.name], tvb(found.at, found.length), found.value)
  end
end
function TEXT.main(_, e)
  local sections = {}
  for _, found in ipairs(e.found) do
    if found.name == "main_machine" or found.name == "main_section" then
      table.insert(sections, found.value)
    end
  end
  return "main stream" .. (#sections > 0 and ": " .. table.concat(sections, ", ") or "")
end

local function show(c, visit, tvb, pinfo, tree)
  pinfo.cols.protocol = "multifd"
  local texts = {}
  for _, item in ipairs(visit.items) do
    local runs = item.kind == "packet" and runs_of(tvb, item.at, item.e) or nil
    local text = TEXT[item.kind](c, item.e, runs)
    -- payload that stands behind its own head goes without saying
    if item.kind ~= "payload" or #texts == 0 then table.insert(texts, text) end
    local there = math.max(0, math.min(item.length, tvb:captured_len() - item.at))
    local subtree = tree:add(multifd, tvb(item.at, there))
    subtree:append_text(", " .. text)
    SHOW[item.kind](subtree, tvb, item.at, c, item.e, item.length, runs)
    -- one value of each field a message, so that columns of tshark's fields line up
    if #visit.items == 1 and not MESSAGES[item.kind] then show_place(subtree, c) end
    if item.kind ~= "payload" then show_violations(subtree, item.e) end
  end
  if #texts > 0 then
    local who = c.kind == "channel" and string.format("ch %s ", c.id or "?") or ""
    -- what came out of the frame before is kept, and this appended
    local visits = c.visits[pinfo.number]
    if visits and visits[1] ~= visit then who = "; " end
    pinfo.cols.info:set(who .. table.concat(texts, "; "))
  end
end

---- dissector -------------------------------------------------------------------------------------

local function from_receiver(c, tvb)
  local e = { violations = {} }
  c.reverse = c.reverse + tvb:reported_len()
  if c.kind == "channel" then
    violate(c, e, "CHAN-2", fault("number of bytes from the receiver", c.reverse, 0))
  end
  return { items = { { kind = "reverse", at = 0, length = tvb:reported_len(), e = e } } }
end

-- A frame can hold several tvbs of one stream: a head put together, and what is behind it.
local function remembered(c, tvb, pinfo, segment)
  local head = tvb:raw(0, math.min(HOP, tvb:captured_len()))
  for _, visit in ipairs(c.visits[pinfo.number] or {}) do
    if visit.size == tvb:reported_len() and visit.raw == head then return visit end
  end
  local visit = { items = {} }
  state.followed = state.followed or not pinfo.visited
  if not pinfo.visited or not state.followed then
    if direction_of(pinfo) ~= c.direction then
      visit = from_receiver(c, tvb)
    else
      visit = c.kind == "main" and walk_main(c, tvb, segment) or walk(c, tvb, pinfo, segment)
    end
    visit.size, visit.raw = tvb:reported_len(), head
    c.visits[pinfo.number] = c.visits[pinfo.number] or {}
    table.insert(c.visits[pinfo.number], visit)
  end
  return visit
end

local function dissect_segment(tvb, pinfo, tree, segment, c)
  local visit = remembered(c, tvb, pinfo, segment)
  show(c, visit, tvb, pinfo, tree)
  if visit.more then
    pinfo.desegment_offset, pinfo.desegment_len = visit.more.at, visit.more.length
  end
  return tvb:captured_len()
end

-- Return what begins with these bytes, whether they are its first, and the page_count that it takes
-- to see that; nothing if it is not ours.
local function recognise(tvb, segment)
  local have = tvb:captured_len()
  if have < 4 then return nil end
  local magic = tvb:raw(0, 4)
  if magic == STREAM_MAGIC then
    local right = have >= 8 and tvb(4, 4):uint() == STREAM_VERSION
    if right or segment.anchored then return "main", true end
  elseif magic == START:sub(1, 4) then
    if segment.anchored then return "channel", true end
    if have < HOP or not is_start(tvb, 0, have) then return nil end
    -- an init and a packet begin alike: the init has its uuid where a packet has flags
    local count = infer_count(tvb, 0, tvb:reported_len(), have)
    if candidate(tvb, 0, have, count) then return "channel", false, count end
    if have >= INIT.size and is_zero(tvb:raw(INIT.unused1.offset, INIT.unused1.size)) then
      return "channel", true
    end
  end
end

-- Return the connection of a segment, a new one if its first bytes are ours.
local function connection_of(tvb, pinfo, segment)
  local c = state.streams[segment.stream]
  if c then return c end
  local kind, start, count = recognise(tvb, segment)
  if not kind then return nil end
  c = open(pinfo, segment, kind, start)
  c.migration.count = c.migration.count or count
  return c
end

local function heuristic(tvb, pinfo, tree)
  local segment = segment_of(pinfo)
  if not segment then return false end
  -- the frame that a conversation was recognised by is handed to heuristics on each visit
  local new = not state.streams[segment.stream]
  local c = connection_of(tvb, pinfo, segment)
  if not c then return false end
  if new then pinfo.conversation = multifd end
  dissect_segment(tvb, pinfo, tree, segment, c)
  return true
end

-- An exported PDU without data is there for the flags of TCP alone.
local function show_flags_of_tcp(pinfo, segment)
  local names = {}
  for _, flag in ipairs({ { TCP_SYN, "SYN" }, { TCP_FIN, "FIN" }, { TCP_RESET, "RST" } }) do
    if has(segment.flags, flag[1]) then table.insert(names, flag[2]) end
  end
  pinfo.cols.protocol = "multifd"
  pinfo.cols.info:set(#names > 0 and table.concat(names, ", ") or "nothing was kept")
end

-- Take what somebody says to be ours: by Decode As, or in an exported PDU.
local function dissect(tvb, pinfo, tree)
  local segment = segment_of(pinfo)
  if not segment then return 0 end
  if tvb:reported_len() == 0 then
    show_flags_of_tcp(pinfo, segment)
    return 0
  end
  local c = connection_of(tvb, pinfo, segment)
    or open(pinfo, segment, "channel", segment.anchored)
  return dissect_segment(tvb, pinfo, tree, segment, c)
end

multifd.dissector = dissect
multifd:register_heuristic("tcp", heuristic)
DissectorTable.get("tcp.port"):add_for_decode_as(multifd)

---- the end of a channel, which is a frame without data of ours -----------------------------------

local ends = Proto("multifd_end", "End of a multifd channel")

-- Return the event that a channel has ended: what it stood in, and how many bytes of that were due.
local function ended(c, segment)
  local e, place = { violations = {}, due = 0 }, c.seen
  if has(segment.flags, TCP_FIN) then place = position(c, segment.seq + segment.len) end
  if c.pending then
    e.state, e.due = c.state == "init" and "init" or "packet head", c.pending.need - #c.pending.raw
  elseif c.head_end and place < c.head_end then
    e.state, e.due = c.head, c.head_end - place
  elseif c.next then
    e.state, e.due = "payload", math.max(0, c.next - place)
  end
  if c.state ~= "lost" and c.state ~= "failed" then judge(c, "ended", e) end
  return e
end

local function has_end(flags) return has(flags, TCP_FIN) or has(flags, TCP_RESET) end

function ends.dissector(_, pinfo, tree)
  local flags = tcp_value("flags")
  if flags and not has_end(flags) then return end -- nearly all frames: what follows is slower
  local segment = segment_of(pinfo)
  local c = segment and has_end(segment.flags) and state.streams[segment.stream]
  if not c or c.kind ~= "channel" or direction_of(pinfo) ~= c.direction then return end
  if not c.over then
    c.over, c.ends[pinfo.number] = true, ended(c, segment)
  end
  local e = c.ends[pinfo.number]
  if e and #e.violations > 0 then
    local item = tree:add(multifd)
    item:append_text(", end of the channel")
    show_place(item, c)
    show_violations(item, e)
  end
end

register_postdissector(ends)

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
