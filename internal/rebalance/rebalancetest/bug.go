package rebalancetest

// Bug is something that a mover, a shard or the registry could do wrong. It is planted to see it found.
type Bug string

// The bugs that can be planted.
const (
	// NoTokens: a shard lets a mover go on though a newer leader's token is there.
	NoTokens Bug = "no-tokens"
	// UnfencesAfterSwitch: a mover that got no answer to its Switch lifts the fence.
	UnfencesAfterSwitch Bug = "unfences-after-switch"
	// ActivatesEarly: the target is activated before the registry has decided.
	ActivatesEarly Bug = "activates-early"
	// DiscardLeavesNothing: an abort leaves no epoch at a target that does not know of the move yet.
	DiscardLeavesNothing Bug = "discard-leaves-nothing"
	// AbortsUnmarked: a move is aborted while its source may not know of it.
	AbortsUnmarked Bug = "aborts-unmarked"
	// AbortKeepsEpoch: an abort gives the slots back at the same epoch.
	AbortKeepsEpoch Bug = "abort-keeps-epoch"
	// IgnoresAdoption: a move is switched though a shard has another primary than the one that was fenced.
	IgnoresAdoption Bug = "ignores-adoption"
	// CleansBlindly: the source's rows are deleted without a look at whether the target owns them.
	CleansBlindly Bug = "cleans-blindly"
	// KeepsFinal: a target that has failed over is activated by the final pass of an earlier fence.
	KeepsFinal Bug = "keeps-final"
)
