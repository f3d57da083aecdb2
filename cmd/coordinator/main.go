// Command coordinator carries transfers between shards to their ends, spreads a new cluster's slots over its shards, and
// moves slots between shards. Several may run for one cluster: one is elected for each task, and two at once are harmless.
package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/alecthomas/kong"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
)

func main() { wire.Main(run) }

type commands struct {
	Serve  serveCommand  `cmd:"" default:"withargs" help:"Run. This is what coordinator alone does."`
	Health healthCommand `cmd:"" help:"Ask the coordinator that runs on this machine whether it is ready."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return wire.Run(ctx, new(commands), "coordinator", "Runs Saldo's transfers between shards, and moves slots.", args, stdout, stderr)
}

type serveCommand struct {
	wire.Coordinator `embed:""`
	Log              wire.Log    `embed:""`
	Traces           wire.Traces `embed:""`
}

func (c *serveCommand) Run(ctx context.Context) error {
	log, err := c.Log.Logger()
	if err != nil {
		return err
	}
	telemetry, err := wire.Telemetry(ctx, "saldo-coordinator", c.Traces, log)
	if err != nil {
		return err
	}
	defer func() { _ = telemetry.Shutdown(context.WithoutCancel(ctx)) }()
	passwords, err := c.Passwords()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.AdminHTTP)
	if err != nil {
		return fmt.Errorf("serve operators on %s (choose another address with --admin-http or SALDO_ADMIN_HTTP): %w", c.AdminHTTP, err)
	}
	return wire.RunCoordinator(ctx, c.Coordinator, wire.Process{Passwords: passwords, Log: log, Metrics: telemetry.Metrics}, listener)
}

type healthCommand struct {
	wire.Health `embed:""`
	AdminHTTP   string `name:"admin-http" env:"SALDO_ADMIN_HTTP" default:"127.0.0.1:8081" help:"Address that it serves operators on."`
}

func (c *healthCommand) Run(ctx context.Context, stdout io.Writer) error {
	return c.Ask(ctx, c.AdminHTTP, stdout)
}
