package growth

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// About what rows take with their indexes and as much WAL: an account with its user, first entry and operation, and one more
// entry with its half of an operation.
const (
	bytesOfAccount = 2000
	bytesOfEntry   = 800
)

// enoughDisk reports books that would not fit.
func enoughDisk(dir string, b books) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("how much room is there in %s: %w", dir, err)
	}
	accounts := int64(b.shards) * int64(b.accounts)
	need := accounts*bytesOfAccount + (int64(b.shards)*b.entries()-accounts)*bytesOfEntry
	if room := int64(stat.Bavail) * int64(stat.Bsize); need > room {
		return fmt.Errorf("%v need about %d GB, and %s has %d GB: choose fewer, or another disk with TMPDIR",
			b, need>>30, dir, room>>30)
	}
	return nil
}

// settle waits until what was written is on disk, so that a measurement does not wait for it.
func settle() { unix.Sync() }
