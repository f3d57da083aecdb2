package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ensureData makes data/ and the password file unless they are there.
func (p *Postgres) ensureData(ctx context.Context) error {
	exists, err := Exists(p.opts.Dir)
	if err != nil {
		return err
	}
	if !exists {
		p.event(Event{Kind: Initializing})
		fill := p.makeData
		if p.opts.Primary != nil {
			fill = p.copyPrimary
		}
		if err := fill(ctx); err != nil {
			return err
		}
	}

	version, err := os.ReadFile(filepath.Join(p.data, "PG_VERSION"))
	if err != nil {
		return err
	}
	if major := strings.TrimSpace(string(version)); major != strconv.Itoa(p.opts.Binaries.Major) {
		return fmt.Errorf("%s was made by Postgres %s but the server in %s is %s: set SALDO_POSTGRES_BIN to the folder of a Postgres %s, or choose another data directory",
			p.data, major, p.opts.Binaries.Dir, p.opts.Binaries.Version, major)
	}
	password, err := os.ReadFile(p.passwordFile())
	if err != nil {
		return fmt.Errorf("read the password of %s: %w", p.data, err)
	}
	p.mu.Lock()
	p.password = strings.TrimSpace(string(password))
	p.mu.Unlock()
	if p.id, err = ownerOf(p.data, p.id); err != nil {
		return err
	}
	return nil
}

func (p *Postgres) passwordFile() string { return filepath.Join(p.opts.Dir, "password") }

// makeData fills data.new and renames it, so that data is whole or absent.
func (p *Postgres) makeData(ctx context.Context) error {
	fresh := p.data + ".new"
	if err := os.RemoveAll(fresh); err != nil { // a crash in the middle of an earlier initdb
		return fmt.Errorf("initialise %s: %w", p.data, err)
	}
	cache := ""
	if p.opts.InitCache != "" {
		key := fmt.Sprintf("initdb-1-%s-uid%d", filepath.Base(strings.Map(fileNameRune, p.opts.Binaries.Version)), p.id.uid)
		cache = filepath.Join(p.opts.InitCache, key)
		err := p.copyFromCache(cache, fresh)
		if err == nil {
			return os.Rename(fresh, p.data)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("copy the initialised data of %s: %w", cache, err)
		}
		if err := os.RemoveAll(fresh); err != nil {
			return err
		}
	}

	secret := make([]byte, 24)
	rand.Read(secret)
	password := hex.EncodeToString(secret)
	if err := replaceFile(p.passwordFile(), password+"\n", 0o600); err != nil {
		return fmt.Errorf("keep the password: %w", err)
	}
	if err := p.initdb(ctx, fresh, password); err != nil {
		return err
	}
	if cache != "" {
		if err := p.copyToCache(fresh, cache); err != nil {
			return fmt.Errorf("keep initialised data in %s: %w", cache, err)
		}
	}
	return os.Rename(fresh, p.data)
}

func fileNameRune(r rune) rune {
	if r == '/' || r == ' ' {
		return '_'
	}
	return r
}

func (p *Postgres) initdb(ctx context.Context, fresh, password string) error {
	// initdb runs as the server's user, who may not read the 0600 file that we
	// keep: it gets one of its own.
	handover := filepath.Join(p.opts.Dir, "initdb-password")
	if err := replaceFile(handover, password+"\n", 0o600); err != nil {
		return fmt.Errorf("hand over the password: %w", err)
	}
	defer os.Remove(handover)
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("initialise %s: %w", p.data, err)
	}
	if p.id.switched {
		for _, path := range []string{handover, fresh} {
			if err := os.Chown(path, p.id.uid, p.id.gid); err != nil {
				return fmt.Errorf("initialise %s: %w", p.data, err)
			}
		}
	}

	args := []string{
		"-D", fresh,
		"--username=" + superuser,
		"--pwfile=" + handover,
		"--auth=scram-sha-256",
		"--encoding=UTF8",
		"--locale=C", // the same order on every machine, and no locale package needed
		"--data-checksums",
		"--no-instructions",
	}
	if p.opts.NoSync {
		args = append(args, "--no-sync")
	}
	return p.runProgram(ctx, "initdb", nil, args...)
}

// runProgram runs one of Postgres's programs as the server's user and waits for
// it, with more environment than [serverEnv].
func (p *Postgres) runProgram(ctx context.Context, name string, env []string, args ...string) error {
	cmd := exec.Command(p.opts.Binaries.program(name), args...)
	cmd.Dir = "/" // the working directory may be closed to the server's user
	cmd.Env = append(serverEnv(), env...)
	var said tail
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	cmd.WaitDelay = time.Second // a child of a killed program may hold the pipe
	c, err := startChild(cmd, p.id, syscall.SIGTERM)
	if err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		// The whole group: initdb runs servers, which should free their shared memory.
		for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			_ = syscall.Kill(-c.pid, s) // gone already: done says so
			if waitChild(c, stopImmediate, nil) {
				break
			}
		}
		<-c.done
		return fmt.Errorf("run %s: %w", name, ctx.Err())
	}
	if c.err != nil {
		return fmt.Errorf("run %s: %w: %s", name, c.err, said.String())
	}
	return nil
}

// tail keeps the end of what is written to it, for an error message.
type tail struct{ b []byte }

const tailSizeBytes = 2048

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if extra := len(t.b) - tailSizeBytes; extra > 0 {
		t.b = t.b[extra:]
	}
	return len(b), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.b)) }

// The cache of initialised data: a folder with data/ and password, which
// appears by a rename, so processes that fill it at once do no harm.

func (p *Postgres) copyFromCache(cache, fresh string) error {
	password, err := os.ReadFile(filepath.Join(cache, "password"))
	if err != nil {
		return err
	}
	if err := copyTree(filepath.Join(cache, "data"), fresh); err != nil {
		return err
	}
	if err := p.id.chownTree(fresh); err != nil {
		return err
	}
	return replaceFile(p.passwordFile(), string(password), 0o600)
}

func (p *Postgres) copyToCache(fresh, cache string) error {
	if err := os.MkdirAll(filepath.Dir(cache), 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(cache), "new-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // after the rename there is nothing to remove
	if err := copyTree(fresh, filepath.Join(tmp, "data")); err != nil {
		return err
	}
	if err := copyTree(p.passwordFile(), filepath.Join(tmp, "password")); err != nil {
		return err
	}
	if err := os.Rename(tmp, cache); err != nil {
		if _, statErr := os.Stat(filepath.Join(cache, "password")); statErr == nil {
			return nil // another process was first
		}
		return err
	}
	return nil
}

// copyTree copies files and folders with their modes.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch {
		case info.IsDir():
			return os.Mkdir(target, info.Mode().Perm())
		case info.Mode().IsRegular():
			return copyFile(path, target, info.Mode().Perm())
		default:
			return fmt.Errorf("copy %s: neither a file nor a folder", path)
		}
	})
}

func copyFile(from, to string, mode os.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
