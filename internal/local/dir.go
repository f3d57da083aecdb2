package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// DirLock is the right to supervise one directory. The kernel takes it back when
// the process dies, however it dies.
type DirLock struct{ f *os.File }

// ErrLocked says that another live process holds the directory.
var ErrLocked = errors.New("the directory is in use by another process")

// LockDir takes the lock of dir, which must exist, without waiting. If another
// process (or another holder in this one) has it, the error wraps [ErrLocked]
// and names the process.
func LockDir(dir string) (*DirLock, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w (pid %s)", dir, ErrLocked, strings.TrimSpace(string(holder)))
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// The pid is for people; the lock itself is the flock.
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
	}
	return &DirLock{f: f}, nil
}

// Unlock gives the directory back. The lock file stays: removing it would let
// two processes lock two files of one name.
func (l *DirLock) Unlock() error { return l.f.Close() }

// PrepareDir makes dir, a folder that belongs to Saldo, so that the user who
// runs the servers can pass through it. It matters for root alone, because
// Postgres refuses to run as root: dir itself gets the x bit for others (names
// in it stay unlistable, files keep their modes). Folders above are not
// changed; if the server's user cannot pass one of them, the error says which
// one and what to do.
func PrepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	id, err := serverIdentity()
	if err != nil {
		return err
	}
	return id.makeReachable(dir)
}

// identity is the user a server runs as.
type identity struct {
	uid, gid int
	name     string
	switched bool // it is not the user of this process
}

// serverIdentity is this process's user, or for root an unprivileged one, since
// Postgres refuses to run as root.
func serverIdentity() (identity, error) {
	if os.Geteuid() != 0 {
		return identity{uid: os.Geteuid(), gid: os.Getegid(), name: "uid " + strconv.Itoa(os.Geteuid())}, nil
	}
	var errs []error
	for _, name := range []string{"postgres", "_postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil || uid == 0 {
			errs = append(errs, fmt.Errorf("user %s has uid %s: %w", name, u.Uid, err))
			continue
		}
		return identity{uid: uid, gid: gid, name: name, switched: true}, nil
	}
	return identity{}, fmt.Errorf("find an unprivileged user, since Postgres does not run as root: %w", errors.Join(errs...))
}

// ownerOf is the identity that an existing data directory dictates: Postgres
// starts only as its owner.
func ownerOf(data string, current identity) (identity, error) {
	st, err := os.Stat(data)
	if err != nil {
		return identity{}, err
	}
	owner := st.Sys().(*syscall.Stat_t)
	if int(owner.Uid) == current.uid {
		return current, nil
	}
	name := "uid " + strconv.Itoa(int(owner.Uid))
	if u, err := user.LookupId(strconv.Itoa(int(owner.Uid))); err == nil {
		name = u.Username
	}
	if os.Geteuid() != 0 || owner.Uid == 0 {
		return identity{}, fmt.Errorf("%s belongs to %s and Postgres runs only as the owner of its data: run as that user or choose another data directory", data, name)
	}
	return identity{uid: int(owner.Uid), gid: int(owner.Gid), name: name, switched: true}, nil
}

func (id identity) makeReachable(dir string) error {
	if !id.switched {
		return nil
	}
	st, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("prepare %s: %w", dir, err)
	}
	if !id.mayPass(st) {
		if err := os.Chmod(dir, st.Mode().Perm()|0o011); err != nil {
			return fmt.Errorf("prepare %s: %w", dir, err)
		}
	}
	return id.checkReach(dir)
}

// checkReach is nil if the user can pass dir and everything above it.
func (id identity) checkReach(dir string) error {
	if !id.switched {
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	for d := dir; ; d = filepath.Dir(d) {
		st, err := os.Stat(d)
		if err != nil {
			return err
		}
		if !id.mayPass(st) {
			return fmt.Errorf("user %s, who runs Postgres because root may not, cannot reach %s: %s has mode %04o; choose a directory elsewhere (for example /var/lib/saldo), or run `chmod o+x %s`",
				id.name, dir, d, st.Mode().Perm(), d)
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

func (id identity) mayPass(st os.FileInfo) bool {
	sys := st.Sys().(*syscall.Stat_t)
	perm := st.Mode().Perm()
	switch {
	case int(sys.Uid) == id.uid:
		return perm&0o100 != 0
	case int(sys.Gid) == id.gid:
		return perm&0o010 != 0
	default:
		return perm&0o001 != 0
	}
}

// chownTree gives root and all below it to id.
func (id identity) chownTree(root string) error {
	if !id.switched {
		return nil
	}
	return filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, id.uid, id.gid)
	})
}

// Discard removes a [Postgres] directory with all its data, after stopping any
// server that still runs there. If a live process supervises it, the error wraps
// [ErrLocked] and nothing is touched.
func Discard(ctx context.Context, dir string) error {
	lock, err := LockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := clearLeftovers(ctx, filepath.Join(dir, "data"), slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
