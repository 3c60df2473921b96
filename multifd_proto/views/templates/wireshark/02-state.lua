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

