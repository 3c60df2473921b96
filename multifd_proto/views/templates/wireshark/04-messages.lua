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

