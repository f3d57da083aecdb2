// Command saldo is Saldo for people: a whole cluster on this machine (`saldo dev`), the shards of a
// cluster and the slots that move between them, what an operator looks at, the audit, the bench.
package main

import (
	"context"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
)

func main() { wire.Main(run) }

type commands struct {
	Dev       devCommand       `cmd:"" help:"Run a whole cluster on this machine: Postgres shards, etcd, a router and a coordinator."`
	Shard     shardCommand     `cmd:"" help:"The shards of a cluster: add, list, drain and remove them."`
	Slots     slotsCommand     `cmd:"" help:"Show which shard owns which slots."`
	Rebalance rebalanceCommand `cmd:"" help:"Spread the slots over the shards as their weights say."`
	Registry  registryCommand  `cmd:"" help:"What etcd knows of the cluster, made anew."`
	Move      moveCommand      `cmd:"" help:"Slots on their way from one shard to another."`
	Top       topCommand       `cmd:"" help:"Watch a cluster live: shards, rates, latencies, lanes, transfers between shards, moves."`
	Saga      sagaCommand      `cmd:"" help:"Transfers between shards: those that have not ended, and their steps."`
	User      userCommand      `cmd:"" help:"A user: where they live, and what they have."`
	Transfer  transferCommand  `cmd:"" help:"A transfer: its way over the shards."`
	Audit     auditCommand     `cmd:"" help:"Read all shards, while they run, and check that every cent is where it should be."`
	Bench     benchCommand     `cmd:"" help:"Measure how fast Saldo is."`

	Completion completionCommand `cmd:"" help:"Print what has your shell complete saldo's commands and flags."`
	Complete   completeCommand   `cmd:"" hidden:"" name:"__complete"`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

// streams are a command's standard input, output and error.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return runOn(ctx, args, streams{in: os.Stdin, out: stdout, err: stderr})
}

func runOn(ctx context.Context, args []string, to streams) error {
	var c commands
	parsed, err := wire.Parse(&c, "saldo", "Saldo is a ledger for money that is too busy for one database.", args, to.out, to.err,
		kong.Vars{"data": defaultData()})
	if err != nil {
		return err
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	return parsed.Run(to)
}
