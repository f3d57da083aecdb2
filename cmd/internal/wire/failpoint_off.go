//go:build !failpoints

package wire

// failpoints is for tests alone: see failpoint.go.
func failpoints() func(point string) { return nil }
