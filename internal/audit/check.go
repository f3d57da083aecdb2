package audit

// Name is a check's stable name.
type Name string

const (
	CheckIdentity   Name = "identity"
	CheckSlots      Name = "slots"
	CheckMoves      Name = "moves"
	CheckRows       Name = "rows"
	CheckOperations Name = "operations"
	CheckBooks      Name = "books"
	CheckTransit    Name = "transit"
	CheckAccounts   Name = "accounts"
	CheckOverdraft  Name = "overdraft"
	CheckSagas      Name = "sagas"
	CheckCredits    Name = "credits"
	CheckEnds       Name = "ends"
)

// newChecks returns the checks in the order in which they are reported. Promises are numbered as in docs/ARCHITECTURE.md.
func newChecks() []Check {
	return []Check{
		{Name: CheckIdentity, Promises: []int{7}, Unit: "shards", Says: "each database is the shard it is taken for, on its adopted timeline"},
		{Name: CheckSlots, Promises: []int{7}, Unit: "slots", Says: "each slot is owned exactly once, as the map says"},
		{Name: CheckMoves, Promises: []int{1, 7}, Unit: "moves", Says: "no move is stuck between its shards, and both have booked the same against @moved"},
		{Name: CheckRows, Promises: []int{7}, Unit: "rows", Says: "each row stands in its user's slot, and no slot has left rows behind"},
		{Name: CheckOperations, Promises: []int{1, 2}, Unit: "operations", Says: "each operation is balanced by its own entries, each entry has its operation"},
		{Name: CheckBooks, Promises: []int{1}, Unit: "sums", Says: "each shard's entries, system sides and @moved sum to zero"},
		{Name: CheckTransit, Promises: []int{1}, Unit: "sums", Says: "@transit is debits less credits less refunds, and never negative"},
		{Name: CheckAccounts, Promises: []int{1, 2}, Unit: "accounts", Says: "each balance is the sum of its entries, numbered without a gap"},
		{Name: CheckOverdraft, Promises: []int{5}, Unit: "entries", Says: "no balance was ever below zero"},
		{Name: CheckSagas, Promises: []int{2}, Unit: "sagas", Says: "each debit for a saga has its saga, each refund has ended one"},
		{Name: CheckCredits, Promises: []int{2}, Unit: "credits", Says: "each credit has its start"},
		{Name: CheckEnds, Promises: []int{2}, Unit: "ended sagas", Says: "each completed saga has its credit, each refunded one its refusal"},
	}
}

// Names returns the names of all checks, in the order in which they are reported.
func Names() []Name {
	checks := newChecks()
	names := make([]Name, len(checks))
	for i, check := range checks {
		names[i] = check.Name
	}
	return names
}
