// Command router serves Saldo's HTTP face: it sends each request to the shard on which its user lives. Any number of
// routers serve one cluster; they keep nothing.
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
	Serve  serveCommand  `cmd:"" default:"withargs" help:"Serve. This is what router alone does."`
	Health healthCommand `cmd:"" help:"Ask the router that serves on this machine whether it is ready."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return wire.Run(ctx, new(commands), "router", "Serves Saldo's HTTP face.", args, stdout, stderr)
}

type serveCommand struct {
	wire.Router `embed:""`
	Log         wire.Log    `embed:""`
	Traces      wire.Traces `embed:""`
}

func (c *serveCommand) Run(ctx context.Context) error {
	log, err := c.Log.Logger()
	if err != nil {
		return err
	}
	telemetry, err := wire.Telemetry(ctx, "saldo-router", c.Traces, log)
	if err != nil {
		return err
	}
	defer func() { _ = telemetry.Shutdown(context.WithoutCancel(ctx)) }()
	passwords, err := c.Passwords()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.HTTP)
	if err != nil {
		return fmt.Errorf("serve on %s (choose another address with --http or SALDO_HTTP): %w", c.HTTP, err)
	}
	return wire.RunRouter(ctx, c.Router, wire.Process{Passwords: passwords, Log: log, Metrics: telemetry.Metrics}, listener)
}

type healthCommand struct {
	wire.Health `embed:""`
	HTTP        string `name:"http" env:"SALDO_HTTP" default:"127.0.0.1:8080" help:"Address that it serves on."`
}

func (c *healthCommand) Run(ctx context.Context, stdout io.Writer) error {
	return c.Ask(ctx, c.HTTP, stdout)
}
