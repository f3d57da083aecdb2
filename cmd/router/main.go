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
	"github.com/saldo-ledger/saldo/internal/telemetry"
)

func main() { wire.Main(run) }

type flags struct {
	wire.Router `embed:""`
	Log         wire.Log         `embed:""`
	Version     kong.VersionFlag `help:"Print the version and exit."`
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var f flags
	if _, err := wire.Parse(&f, "router", "Serves Saldo's HTTP face.", args, stdout, stderr); err != nil {
		return err
	}
	log, err := f.Log.Logger()
	if err != nil {
		return err
	}
	flush, err := telemetry.StartTracing(ctx, "saldo-router")
	if err != nil {
		return err
	}
	defer func() { _ = flush(context.WithoutCancel(ctx)) }()
	passwords, err := f.Passwords()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", f.HTTP)
	if err != nil {
		return fmt.Errorf("serve on %s (choose another address with --http or SALDO_HTTP): %w", f.HTTP, err)
	}
	return wire.RunRouter(ctx, f.Router, passwords, listener, log)
}
