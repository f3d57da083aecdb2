// Command coordinator carries transfers between shards to their ends, spreads a new cluster's slots over its shards, and
// moves slots between shards. Several may run for one cluster: one is elected for each task, and two at once are harmless.
package main

import (
	"context"
	"io"

	"github.com/alecthomas/kong"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/telemetry"
)

func main() { wire.Main(run) }

type flags struct {
	wire.Coordinator `embed:""`
	Log              wire.Log         `embed:""`
	Version          kong.VersionFlag `help:"Print the version and exit."`
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var f flags
	if _, err := wire.Parse(&f, "coordinator", "Runs Saldo's transfers between shards.", args, stdout, stderr); err != nil {
		return err
	}
	log, err := f.Log.Logger()
	if err != nil {
		return err
	}
	flush, err := telemetry.StartTracing(ctx, "saldo-coordinator")
	if err != nil {
		return err
	}
	defer func() { _ = flush(context.WithoutCancel(ctx)) }()
	passwords, err := f.Passwords()
	if err != nil {
		return err
	}
	return wire.RunCoordinator(ctx, f.Coordinator, passwords, log)
}
