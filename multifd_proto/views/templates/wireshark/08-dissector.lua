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

