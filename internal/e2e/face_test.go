package e2e

import "testing"

// What clients see of a cluster that is well. The tests share it, one after the other.
func TestFace(t *testing.T) {
	t.Parallel()
	// Wait is long: a transfer between shards is answered by its end even on a slow machine.
	c := newCluster(t, size{shards: 3, router: []string{"SALDO_WAIT=7s"}})
	for _, test := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"first seed", testFirstSeed},
		{"second seed", testSecondSeed},
		{"transfers", testTransfers},
		{"batches", testBatches},
		{"bad inputs", testBadInputs},
		{"repeats", testRepeats},
		{"twins", testTwins},
		{"clients that hang up", testHangUps},
		{"roles", testRoles},
	} {
		t.Run(test.name, func(t *testing.T) { test.test(t, c) })
	}
	c.wantClean(t)
	readWorld(t, c).check(t)
}
