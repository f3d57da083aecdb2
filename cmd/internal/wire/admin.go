package wire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"

	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/routing"
	"github.com/saldo-ledger/saldo/saga"
	"github.com/saldo-ledger/saldo/shard"
)

// desk is the cluster as operators ask about it: the admin.Registry, admin.Shards and admin.Sagas of a coordinator.
type desk struct {
	members *members
	router  *routing.Router
	audit   *auditDesk
	cluster atomic.Pointer[cluster.Cluster] // nil until etcd was reached
}

// newAdmin returns the face that operators see at an address.
func newAdmin(d *desk, config Coordinator, process Process, at net.Addr) (*admin.Face, error) {
	tcp, ok := at.(*net.TCPAddr)
	options := admin.Config{
		Registry: d, Shards: d, Sagas: d, Auditor: d.audit, Loopback: ok && tcp.IP.IsLoopback(),
		Name: config.Name, Version: Version, Log: process.Log,
	}
	if config.AdminTokenFile != "" {
		options.Token = func() (string, error) { return readToken(config.AdminTokenFile) }
		if _, err := options.Token(); err != nil {
			return nil, err
		}
	}
	return admin.New(options), nil
}

const minToken = 16 // bytes

// readToken reads the operator's token. It is small, and operators are few: so it may be changed at any time.
func readToken(file string) (string, error) {
	token, err := readSecret(file)
	if err != nil {
		return "", err
	}
	if token = strings.TrimSpace(token); len(token) < minToken {
		return "", fmt.Errorf("the operator's token in %s has %d characters, not at least %d: make one by `openssl rand -hex 32`",
			file, len(token), minToken)
	}
	return token, nil
}

// View implements admin.Registry.
func (d *desk) View() *admin.View {
	w := d.members.watcher.Load()
	if w == nil {
		return nil
	}
	view, status := w.Current(), w.Status()
	to := &admin.View{
		UID: view.Config.UID, CreatedAt: view.Config.CreatedAt, InitialShards: view.Config.InitialShards,
		Revision: view.Revision, Map: view.Map, Moves: view.Moves,
		Connected: status.Connected, Contact: status.Contact, Problem: status.Problem,
	}
	for _, id := range slices.Sorted(maps.Keys(view.Shards)) {
		s := view.Shards[id]
		to.Shards = append(to.Shards, admin.RegisteredShard{
			ID: id, Draining: s.State == cluster.ShardDraining, DSN: s.DSN, Weight: s.Weight,
			RegisteredAt: s.RegisteredAt, Timeline: s.Timeline,
		})
	}
	return to
}

// Changed implements admin.Registry.
func (d *desk) Changed() <-chan struct{} { return d.members.Changed() }

var errNoRegistry = ledger.Unavailable("etcd does not answer now: try again when it is back; payments go on", nil)

// Leaders implements admin.Registry.
func (d *desk) Leaders(ctx context.Context) (map[string]string, error) {
	c, err := d.reached()
	if err != nil {
		return nil, err
	}
	return c.Leaders(ctx)
}

// Routers implements admin.Registry.
func (d *desk) Routers(ctx context.Context) ([]admin.Process, error) {
	return d.processes(ctx, cluster.Routers)
}

// Coordinators implements admin.Registry.
func (d *desk) Coordinators(ctx context.Context) ([]admin.Process, error) {
	return d.processes(ctx, cluster.Coordinators)
}

func (d *desk) processes(ctx context.Context, kind string) ([]admin.Process, error) {
	c, err := d.reached()
	if err != nil {
		return nil, err
	}
	alive, err := c.Processes(ctx, kind)
	if err != nil {
		return nil, err
	}
	processes := make([]admin.Process, len(alive))
	for i, p := range alive {
		processes[i] = admin.Process(p)
	}
	return processes, nil
}

// reached returns the way to etcd, if that answers: a question to one that does not would only wait.
func (d *desk) reached() (*cluster.Cluster, error) {
	c, w := d.cluster.Load(), d.members.watcher.Load()
	if c == nil || w == nil || !w.Status().Connected {
		return nil, errNoRegistry
	}
	return c, nil
}

// PauseMove implements admin.Registry.
func (d *desk) PauseMove(ctx context.Context, id placement.MoveID, paused bool) (placement.Move, error) {
	c, err := d.reached()
	if err != nil {
		return placement.Move{}, err
	}
	move, err := c.PauseMove(ctx, id, paused)
	return move, moveError(err)
}

// AbortMove implements admin.Registry.
func (d *desk) AbortMove(ctx context.Context, id placement.MoveID, why string) (placement.Move, error) {
	c, err := d.reached()
	if err != nil {
		return placement.Move{}, err
	}
	for {
		view, err := c.Read(ctx)
		if etcdFailed(err) { // nothing has been written yet
			return placement.Move{}, errNoRegistry
		}
		if err != nil {
			return placement.Move{}, err
		}
		move, ok := view.Move(id)
		if !ok {
			return placement.Move{}, fmt.Errorf("move %s has been forgotten", id)
		}
		aborted, err := c.AbortMove(ctx, move, why)
		if !errors.Is(err, cluster.ErrChanged) {
			return aborted, moveError(err)
		}
	}
}

// moveError makes an error of etcd's an unknown outcome: the change may have been written, and only the answer lost.
func moveError(err error) error {
	if etcdFailed(err) {
		return ledger.Unknown(err)
	}
	return err
}

// etcdFailed tells an error of etcd's, or of the way to it, from one in which the cluster package says what forbids something.
func etcdFailed(err error) bool {
	var answered rpctypes.EtcdError
	_, remote := status.FromError(err)
	return err != nil && (remote || errors.As(err, &answered) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled))
}

// Shard implements admin.Shards.
func (d *desk) Shard(id ledger.ShardID) (admin.Shard, bool) {
	d.members.mu.RLock()
	defer d.members.mu.RUnlock()
	member, ok := d.members.open[id]
	if !ok {
		return nil, false
	}
	return member.shard, true // without limits: operators come through when clients do not
}

// Standing implements admin.Shards.
func (d *desk) Standing(ctx context.Context, id ledger.ShardID) (admin.Standing, error) {
	w := d.members.watcher.Load()
	if w == nil {
		return admin.Standing{}, errNoRegistry
	}
	view := w.Current()
	known := view.Shards[id]
	s, refused, err := shard.LookFor(ctx, shard.Config{
		Cluster: view.Config.UID, ID: id, DSN: known.DSN, Timeline: known.Timeline, Password: d.members.passwords(id),
	})
	if err != nil {
		return admin.Standing{}, ledger.Unavailable("its server cannot be asked", err)
	}
	to := admin.Standing{
		Standby: s.Standby, Timeline: s.Timeline, Adopted: s.Adopted, LSN: s.LSN.String(), Synchronous: s.Synchronous,
	}
	if refused != nil {
		to.Refused = refused.Error()
	}
	for _, f := range s.Followers {
		to.Followers = append(to.Followers, admin.Follower{
			Name: f.Name, State: f.State, Sync: f.Sync, LagBytes: f.Lag, LagSeconds: f.Delay.Seconds(),
		})
	}
	return to, nil
}

// Retry implements admin.Sagas. Whoever else carries the saga sends the same steps, by the same keys.
func (d *desk) Retry(ctx context.Context, s ledger.Saga) (ledger.Saga, error) {
	steps := &attentive{Steps: d.router}
	if ended := saga.Carry(ctx, steps, []ledger.Saga{s}); len(ended) == 1 {
		return ended[0], nil
	}
	err := cmp.Or(steps.err, ctx.Err(), errContradiction)
	var refused *placement.OwnershipError
	if errors.As(err, &refused) {
		err = ledger.Unavailable("the shard does not take it: "+refused.Error(), err)
	}
	return s, err
}

var errContradiction error = &ledger.Error{
	Code: ledger.CodeUnavailable, Message: "its recorded steps contradict each other, so no step is right: run `saldo audit`",
}

// attentive remembers why the latest step had no answer.
type attentive struct {
	saga.Steps
	err error
}

// SubmitAll implements saga.Steps.
func (a *attentive) SubmitAll(ctx context.Context, ops []ledger.Operation) []ledger.Answer {
	return a.hear(a.Steps.SubmitAll(ctx, ops))
}

// CompleteAll implements saga.Steps.
func (a *attentive) CompleteAll(ctx context.Context, ids []ledger.Identity) []ledger.Answer {
	return a.hear(a.Steps.CompleteAll(ctx, ids))
}

func (a *attentive) hear(answers []ledger.Answer) []ledger.Answer {
	for _, answer := range answers {
		a.err = answer.Err
	}
	return answers
}
