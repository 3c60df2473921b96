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
local function remembered(c, tvb, pinfo)
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
      visit = c.kind == "main" and walk_main(c, tvb) or walk(c, tvb, pinfo)
    end
    visit.size, visit.raw = tvb:reported_len(), head
    c.visits[pinfo.number] = c.visits[pinfo.number] or {}
    table.insert(c.visits[pinfo.number], visit)
  end
  return visit
end

-- Tell whether a segment begins its stream; only the handshake says so.
local function is_anchored()
  return tcp_value("seq") == 1 and has(tcp_value("completeness") or 0, 1)
end

local function dissect(tvb, pinfo, tree)
  if not tcp_value("stream") then return 0 end
  local c = state.streams[tcp_value("stream")]
  if not c then
    local main = tvb:captured_len() >= 4 and tvb:raw(0, 4) == STREAM_MAGIC
    c = open(pinfo, main and "main" or "channel", is_anchored())
  end
  local visit = remembered(c, tvb, pinfo)
  show(c, visit, tvb, pinfo, tree)
  if visit.more then
    pinfo.desegment_offset, pinfo.desegment_len = visit.more.at, visit.more.length
  end
  return tvb:captured_len()
end

-- Return what begins with these bytes, whether they are its first, and the page_count that it takes
-- to see that; nothing if it is not ours.
local function recognise(tvb)
  local have = tvb:captured_len()
  if have < 4 then return nil end
  local magic = tvb:raw(0, 4)
  if magic == STREAM_MAGIC then
    local right = have >= 8 and tvb(4, 4):uint() == STREAM_VERSION
    if right or is_anchored() then return "main", true end
  elseif magic == START:sub(1, 4) then
    if is_anchored() then return "channel", true end
    if have < HOP or not is_start(tvb, 0, have) then return nil end
    -- an init and a packet begin alike: the init has its uuid where a packet has flags
    local count = infer_count(tvb, 0, tvb:reported_len(), have)
    if candidate(tvb, 0, have, count) then return "channel", false, count end
    if have >= INIT.size and is_zero(tvb:raw(INIT.unused1.offset, INIT.unused1.size)) then
      return "channel", true
    end
  end
end

local function heuristic(tvb, pinfo, tree)
  -- the first of two passes of a tshark without filters knows no fields: the second does it then
  if not tcp_value("stream") then return false end
  -- the frame that a conversation was recognised by is handed to heuristics on each visit
  if not state.streams[tcp_value("stream")] then
    local kind, start, count = recognise(tvb)
    if not kind then return false end
    local c = open(pinfo, kind, start)
    c.migration.count = c.migration.count or count
    pinfo.conversation = multifd
  end
  dissect(tvb, pinfo, tree)
  return true
end

multifd.dissector = dissect
multifd:register_heuristic("tcp", heuristic)
DissectorTable.get("tcp.port"):add_for_decode_as(multifd)

---- the end of a channel, which is a frame without data of ours -----------------------------------

local TCP_FIN, TCP_RESET = 1, 4
local ends = Proto("multifd_end", "End of a multifd channel")

-- Return the event that a channel has ended: what it stood in, and how many bytes of that were due.
local function ended(c)
  local e, place = { violations = {}, due = 0 }, c.seen
  if has(tcp_value("flags"), TCP_FIN) then place = position(c, tcp_value("seq") + tcp_value("len")) end
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

function ends.dissector(_, pinfo, tree)
  local flags = tcp_value("flags")
  if not flags or not (has(flags, TCP_FIN) or has(flags, TCP_RESET)) then return end
  local c = state.streams[tcp_value("stream")]
  if not c or c.kind ~= "channel" or direction_of(pinfo) ~= c.direction then return end
  if not c.over then
    c.over, c.ends[pinfo.number] = true, ended(c)
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

