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

