package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/mend"
	"github.com/saldo-ledger/saldo/shard"
)

type shardDoctorCommand struct {
	target   `embed:""`
	ID       string `arg:"" optional:"" help:"Of the shard. Default: all of them, and what is torn between them."`
	OwnerDSN string `name:"owner-dsn" env:"SALDO_OWNER_DSN" help:"How to log in at the one shard that is named, as a user who may read where its log forked off. Default: the shard's address."`
	owner    `embed:""`
	Redrive  bool `name:"redrive" help:"Send again the sides of transfers that were lost, where that can be done."`
	Quiet    bool `name:"quiet" short:"q" help:"Show no progress, on a terminal either."`
}

// Help says what the exit codes mean.
func (c *shardDoctorCommand) Help() string {
	return "Looks at each shard's server, and after a failover for what was lost: transfers between shards of which one shard has " +
		"its side and the other has not. --redrive sends the missing side again, by its own key, so it does no harm where nothing was " +
		"missing. What the ledger's rules forbid now is left for a person. " +
		"Exits with 0 if all is well, 1 if something is not, 2 if not everything could be looked at."
}

// Validate is called by the flag parser.
func (c *shardDoctorCommand) Validate() error {
	if c.Redrive && c.ID != "" {
		return errors.New("--redrive is about all shards: leave the id out")
	}
	return nil
}

func (c *shardDoctorCommand) Run(ctx context.Context, to streams) error {
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if err != nil {
		return err
	}
	d := &doctor{etcd: etcd, view: view, passwords: passwords, out: to.out}
	if c.ID != "" {
		id, err := ledger.ParseShardID(c.ID)
		if err != nil {
			return err
		}
		known, ok := view.Shards[id]
		if !ok {
			return fmt.Errorf("shard %s: %w", id, cluster.ErrNotRegistered)
		}
		if d.passwords, err = c.passwords(c.OwnerDSN, passwords); err != nil {
			return err
		}
		known.DSN = cmp.Or(c.OwnerDSN, known.DSN)
		d.look(ctx, known)
		return d.verdict()
	}
	for _, id := range slices.Sorted(maps.Keys(view.Shards)) {
		d.look(ctx, view.Shards[id])
	}
	progress := newProgress(to.err, c.Quiet)
	err = d.between(ctx, c.Redrive, progress.say)
	progress.clear()
	if err != nil {
		return err
	}
	return d.verdict()
}

// doctor prints what it finds.
type doctor struct {
	etcd       *cluster.Cluster
	view       *cluster.View
	passwords  wire.Passwords
	out        io.Writer
	ill        bool // something is not well
	incomplete bool // something could not be looked at
}

func (d *doctor) verdict() error {
	switch {
	case d.ill:
		return wire.ExitCode(1)
	case d.incomplete:
		return wire.ExitCode(2)
	}
	return nil
}

func (d *doctor) say(what, format string, args ...any) {
	fmt.Fprintf(d.out, "  %-12s %s\n", what, fmt.Sprintf(format, args...))
}

// look looks at one shard's server.
func (d *doctor) look(ctx context.Context, known cluster.Shard) {
	fmt.Fprintf(d.out, "shard %s at %s\n", known.ID, known.DSN)
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	server, refused, err := shard.LookFor(ctx, shard.Config{
		Cluster: d.view.Config.UID, ID: known.ID, DSN: known.DSN, Timeline: known.Timeline, Password: d.passwords(known.ID),
	})
	if err != nil {
		d.ill = true
		d.say("answers", "no: %v", err)
		return
	}
	role := "a primary"
	if server.Standby {
		role = "a standby"
	}
	d.say("answers", "as shard %s of cluster %s, %s", cmp.Or(server.Shard, "(none)"), cmp.Or(server.Cluster, "(none)"), role)
	d.say("timeline", "%d, at %v; its database has adopted %d, the registry %s",
		server.Timeline, server.LSN, server.Adopted, timeline(known.Timeline))
	if refused != nil {
		d.ill = true
		d.say("accepts", "nothing: %v", refused)
	}
	d.schema(server)
	d.replication(server)
	losses, err := assembly.Losses(ctx, d.etcd, known.ID, server)
	switch {
	case err != nil:
		d.incomplete = true
		d.say("lost", "not known: %v", err)
	case server.ForksUnknown != "":
		d.say("lost", "not known: %s", server.ForksUnknown)
	}
	for _, loss := range losses {
		d.say("lost", "%s", loss.Text)
	}
	if slices.ContainsFunc(losses, func(loss assembly.Loss) bool { return loss.SetBack }) {
		d.ill = true
		d.say("set back", "its files are older ones than the shard had on this timeline, and nobody may use it: stop it, start it with "+
			"recovery.signal, and adopt it: see Backup and restore in docs/OPERATIONS.md")
	}
}

func timeline(known int) string {
	if known == 0 {
		return "does not know"
	}
	return fmt.Sprint(known)
}

// schema says whether the tables are those that this program has.
func (d *doctor) schema(server *shard.Standing) {
	mine, err := shard.SchemaVersion()
	switch {
	case err != nil:
		d.incomplete = true
		d.say("schema", "not known: %v", err)
	case server.Schema < mine:
		d.ill = true
		d.say("schema", "version %d, and this program has %d: `saldo shard migrate` before newer programs are rolled out", server.Schema, mine)
	case server.Schema > mine:
		d.say("schema", "version %d, and this program has %d: a newer saldo has migrated it", server.Schema, mine)
	}
}

func (d *doctor) replication(server *shard.Standing) {
	if server.Standby {
		return
	}
	switch {
	case server.Synchronous != "":
		d.say("replication", "commits wait for %s", server.Synchronous)
	case len(server.Followers) > 0:
		d.say("replication", "asynchronous: a failover may lose what was acknowledged last")
	default:
		d.say("replication", "none: what this server loses is lost")
	}
	waits := server.Synchronous != ""
	for _, f := range server.Followers {
		waits = waits && f.State != "" && f.Sync != "sync" && f.Sync != "quorum"
		if f.State == "" {
			d.say("", "%s (grant pg_read_all_stats to see more)", f.Name)
			continue
		}
		d.say("", "%s: %s, %s, %d bytes behind, %v to disk", f.Name, f.Sync, f.State, f.Lag, f.Delay.Round(10*time.Microsecond))
	}
	if waits {
		d.ill = true
		d.say("", "nobody is there for whom commits wait: every one of them hangs")
	}
}

// between looks for transfers that are torn between shards.
func (d *doctor) between(ctx context.Context, redrive bool, say func(string)) error {
	world := assembly.NewWorld(d.etcd, d.passwords)
	defer world.Close()
	found, err := mend.Find(ctx, world, say)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out, "between shards")
	for _, id := range slices.Sorted(maps.Keys(found.Unread)) {
		d.incomplete = true
		d.say("not read", "shard %s: %v", id, found.Unread[id])
	}
	for _, id := range slices.Sorted(maps.Keys(found.Astray)) {
		d.incomplete = true
		d.say("slots", "%d that the map gives to shard %s are not owned there: a move is coming to its end, or that was lost; `saldo audit` lists them",
			found.Astray[id], id)
	}
	mended := 0
	for _, tear := range found.Tears {
		t := tear.Transfer
		text := fmt.Sprintf("%v: %d %s to %s, on shard %s", t.Identity, t.Amount, t.Currency, t.Payee, tear.Shard)
		if redrive {
			err = mend.Drive(ctx, world, tear)
			if err == nil {
				mended++
				d.say(string(tear.Kind), "%s: driven again", text)
				continue
			}
			text += ": " + err.Error()
		}
		d.ill = true
		d.say(string(tear.Kind), "%s", text)
	}
	switch {
	case len(found.Tears) == 0 && len(found.Unread) == 0:
		d.say("torn", "nothing")
	case redrive:
		d.say("torn", "%d transfers, %d of them driven again", len(found.Tears), mended)
	default:
		d.say("torn", "%d transfers", len(found.Tears))
	}
	return ctx.Err()
}
