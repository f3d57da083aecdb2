package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

type auditCommand struct {
	target `embed:""`
	JSON   bool `name:"json" help:"Print the report as JSON, for machines."`
	Quiet  bool `name:"quiet" short:"q" help:"Show no progress, on a terminal either."`
}

// Help says what the exit codes mean.
func (c *auditCommand) Help() string {
	return "Exits with 0 if the books are clean, 1 on any violation, 2 if the audit could not be completed."
}

func (c *auditCommand) Run(ctx context.Context, to streams) error {
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	world := &auditWorld{cluster: etcd, passwords: passwords, open: make(map[ledger.ShardID]*shard.Shard)}
	defer world.close()
	var options audit.Options
	progress := !c.Quiet && isTerminal(to.err)
	if progress {
		options.Progress = func(text string) { fmt.Fprintf(to.err, "\r\x1b[K%s", text) }
	}
	report, err := audit.Run(ctx, world, options)
	if progress {
		fmt.Fprint(to.err, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(to.out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(report)
	} else {
		err = report.WriteTable(to.out)
	}
	if err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if code := report.ExitCode(); code != 0 {
		return wire.ExitCode(code)
	}
	return nil
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	about, err := file.Stat()
	return err == nil && about.Mode()&os.ModeCharDevice != 0
}

// auditWorld is the cluster as the audit sees it: the registry in etcd, and each shard at the address it has there.
type auditWorld struct {
	cluster   *cluster.Cluster
	passwords wire.Passwords

	mu   sync.Mutex
	view *cluster.View // of the latest look
	open map[ledger.ShardID]*shard.Shard
}

// View implements audit.World.
func (w *auditWorld) View(ctx context.Context) (audit.View, error) {
	view, err := w.cluster.Read(ctx)
	if err != nil {
		return audit.View{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = view
	return audit.View{Cluster: view.Config.UID, Shards: sortedIDs(view.Shards), Map: view.Map}, nil
}

// Snapshot implements audit.World.
func (w *auditWorld) Snapshot(ctx context.Context, id ledger.ShardID) (audit.Snapshot, error) {
	s, err := w.shard(id)
	if err != nil {
		return nil, err
	}
	snapshot, err := s.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return snapshot, nil
}

func (w *auditWorld) shard(id ledger.ShardID) (*shard.Shard, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s, ok := w.open[id]; ok {
		return s, nil
	}
	known, ok := w.view.Shards[id]
	if !ok {
		return nil, fmt.Errorf("shard %s is not registered", id)
	}
	s, err := shard.Open(shard.Config{
		Cluster: w.view.Config.UID, ID: id, DSN: known.DSN, Password: w.passwords(id), Name: "saldo",
	}, slog.New(slog.DiscardHandler))
	if err == nil {
		w.open[id] = s
	}
	return s, err
}

func (w *auditWorld) close() {
	for _, id := range sortedIDs(w.open) {
		w.open[id].Close()
	}
}
