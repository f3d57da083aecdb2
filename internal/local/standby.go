package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// copyPrimary fills data.new with a copy of the primary, set to follow it, and
// renames it.
func (p *Postgres) copyPrimary(ctx context.Context) error {
	fresh := p.data + ".new"
	if err := os.RemoveAll(fresh); err != nil { // a crash in the middle of an earlier copy
		return fmt.Errorf("copy the primary to %s: %w", p.data, err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("copy the primary to %s: %w", p.data, err)
	}
	if p.id.switched {
		if err := os.Chown(fresh, p.id.uid, p.id.gid); err != nil {
			return fmt.Errorf("copy the primary to %s: %w", p.data, err)
		}
	}
	args := []string{
		"-D", fresh,
		"-d", p.opts.Primary.DSNWithoutPassword(),
		"-X", "stream",
		"--checkpoint=fast",
		"-R",
		"-C", "-S", p.slotName(),
	}
	if p.opts.NoSync {
		args = append(args, "--no-sync")
	}
	if err := p.runProgram(ctx, "pg_basebackup", p.opts.Primary.sourceEnv(), args...); err != nil {
		return fmt.Errorf("copy the primary to %s: %w", p.data, err)
	}
	if err := replaceFile(p.passwordFile(), p.opts.Primary.Password()+"\n", 0o600); err != nil {
		return fmt.Errorf("keep the password: %w", err)
	}
	return os.Rename(fresh, p.data)
}

func (p *Postgres) sourceEnv() []string { return []string{"PGPASSWORD=" + p.Password()} }

// Promote makes a standby a primary of its own, on a new timeline, and returns
// when it accepts writes.
func (p *Postgres) Promote(ctx context.Context) error {
	p.life.Lock()
	defer p.life.Unlock()
	if p.lock == nil {
		return fmt.Errorf("promote postgres %s: it is not started", p.opts.Name)
	}
	if err := p.runProgram(ctx, "pg_ctl", nil, "promote", "-w", "-D", p.data,
		"-t", strconv.Itoa(int(p.opts.StartLimit.Seconds()))); err != nil {
		return fmt.Errorf("promote postgres %s: %w", p.opts.Name, err)
	}
	return nil
}

// Rewind makes a stopped server, which has gone its own way since source was
// promoted, one that follows source from the next start on: what it alone has is
// gone. The source must have made a checkpoint since (before Postgres 16
// pg_rewind sees only then that it was promoted).
func (p *Postgres) Rewind(ctx context.Context, source *Postgres) (err error) {
	p.life.Lock()
	defer p.life.Unlock()
	if p.lock != nil || p.data == "" {
		return fmt.Errorf("rewind postgres %s: it must have been started, and be stopped", p.opts.Name)
	}
	lock, err := LockDir(filepath.Dir(p.data))
	if err != nil {
		return fmt.Errorf("rewind postgres %s: %w", p.opts.Name, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := p.runProgram(ctx, "pg_rewind", source.sourceEnv(),
		"-D", p.data, "--source-server", source.DSNWithoutPassword(), "-R"); err != nil {
		return fmt.Errorf("rewind postgres %s: %w", p.opts.Name, err)
	}
	// The settings of the source come along: it followed its primary by a slot of
	// this name.
	if err := p.runProgram(ctx, "pg_receivewal", source.sourceEnv(), "-d", source.DSNWithoutPassword(),
		"--create-slot", "--if-not-exists", "-S", source.slotName()); err != nil {
		return fmt.Errorf("rewind postgres %s: %w", p.opts.Name, err)
	}
	return nil
}

// slotName is of the replication slot by which the server follows its primary.
func (p *Postgres) slotName() string { return strings.ReplaceAll(clusterName(p.data), "-", "_") }
