package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/audit"
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
	world := assembly.NewWorld(etcd, passwords)
	defer world.Close()
	progress := newProgress(to.err, c.Quiet)
	report, err := audit.Run(ctx, world, audit.Options{Progress: progress.say})
	progress.clear()
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
