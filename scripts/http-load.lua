-- Requests for wrk: transfers of 1 between random users, and balance reads. See scripts/http-load.
--   arguments: what (same, cross, balance), then a file of user ids for each shard

local what, shards = nil, {}

function init(args)
	math.randomseed(os.time() + tonumber(tostring({}):match("0x(%x+)"), 16) % 100000)
	what = args[1]
	for i = 2, #args do
		local users = {}
		for line in io.lines(args[i]) do users[#users + 1] = line end
		shards[#shards + 1] = users
	end
end

local function any(users) return users[math.random(#users)] end

function request()
	local home = math.random(#shards)
	local payer = any(shards[home])
	if what == "balance" then return wrk.format("GET", "/users/" .. payer .. "/balance") end
	local other = home
	if what == "cross" then other = (home + math.random(#shards - 1) - 1) % #shards + 1 end
	local payee = any(shards[other])
	while payee == payer do payee = any(shards[other]) end
	return wrk.format("POST", "/transfers", { ["Content-Type"] = "application/json" },
		'{"source":"' .. payer .. '","destination":"' .. payee .. '","amount":1}')
end

local threads, counts = {}, {}
function setup(thread) threads[#threads + 1] = thread end
codes = {}
function response(status) codes[status] = (codes[status] or 0) + 1 end
function done()
	for _, thread in ipairs(threads) do
		for status, n in pairs(thread:get("codes")) do counts[status] = (counts[status] or 0) + n end
	end
	for status, n in pairs(counts) do print("answers " .. status .. ": " .. n) end
end
