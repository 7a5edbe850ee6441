-- replies.lua: replies that hold messages can be asked back if their connection was lost.

-- So long; a Redis that is away longer keeps what it handed out in its last reply.
local TAKEN_SECONDS = 900

-- Remembers a reply until the next of its flavour, so that restore.lua can undo a lost one.
local function remember_reply(batch, numbers, records)
  redis.call('SET', TAKEN, cmsgpack.pack({batch, numbers, records}), 'EX', TAKEN_SECONDS)
end
