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

