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

