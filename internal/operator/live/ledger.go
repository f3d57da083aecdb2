// Package live is a cluster as the operator uses it: etcd and the shards' own databases, by the functions that `saldo shard`
// uses. It decides nothing, and refuses to know Kubernetes.
package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
	"github.com/saldo-ledger/saldo/shard"
)

// Ledger implements operator.Ledger.
type Ledger struct {
	cluster   *cluster.Cluster
	passwords assembly.Passwords
	owner     *url.Userinfo // of the schema, at every shard
	files     string        // folder of etcd's certificates; "" if there are none
	log       *slog.Logger
}

var _ operator.Ledger = (*Ledger)(nil)

// Connect connects to etcd, and makes sure that it answers. Close the Ledger.
func Connect(ctx context.Context, to operator.Connection, log *slog.Logger) (*Ledger, error) {
	l := &Ledger{
		passwords: func(ledger.ShardID) string { return to.ShardPassword },
		owner:     url.UserPassword(to.Owner, to.OwnerPassword),
		log:       log,
	}
	config := cluster.Config{Endpoints: to.Endpoints, Prefix: to.Prefix, Username: to.Username, Password: to.Password, Log: log}
	if err := l.write(&config, to); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	c, err := cluster.Connect(ctx, config)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.cluster = c
	return l, nil
}

// write puts the certificates into files, as etcd's client reads them: again at each handshake.
func (l *Ledger) write(config *cluster.Config, to operator.Connection) (err error) {
	if len(to.CA) == 0 {
		return nil
	}
	if l.files, err = os.MkdirTemp("", "saldo-operator-"); err != nil {
		return fmt.Errorf("keep etcd's certificates: %w", err)
	}
	for _, file := range []struct {
		path    *string
		name    string
		content []byte
	}{
		{&config.CAFile, "ca.crt", to.CA},
		{&config.CertFile, "tls.crt", to.Certificate},
		{&config.KeyFile, "tls.key", to.Key},
	} {
		if len(file.content) == 0 {
			continue
		}
		*file.path = filepath.Join(l.files, file.name)
		if err := os.WriteFile(*file.path, file.content, 0o600); err != nil {
			return fmt.Errorf("keep etcd's certificates: %w", err)
		}
	}
	return nil
}

// Close implements operator.Ledger.
func (l *Ledger) Close() error {
	var errs []error
	if l.cluster != nil {
		errs = append(errs, l.cluster.Close())
	}
	if l.files != "" {
		errs = append(errs, os.RemoveAll(l.files))
	}
	return errors.Join(errs...)
}

// Look implements operator.Ledger.
func (l *Ledger) Look(ctx context.Context) (*operator.Registry, error) {
	view, err := l.cluster.Read(ctx)
	if errors.Is(err, cluster.ErrNotInitialized) {
		return &operator.Registry{}, nil
	}
	if err != nil {
		return nil, err
	}
	// Read after the view: what is retired stays so, and is not registered.
	retired, err := l.cluster.Retired(ctx)
	if err != nil {
		return nil, err
	}
	registry := &operator.Registry{
		Created: true, Cluster: view.Config.UID, Initial: view.Config.InitialShards, Founded: view.Founded(),
		Shards: make(map[ledger.ShardID]operator.Shard), Retired: retired,
	}
	owned := assembly.Owned(view)
	for id, s := range view.Shards {
		known := operator.Shard{Address: s.DSN, Draining: s.State == cluster.ShardDraining, Slots: owned[id]}
		for _, move := range view.Moves {
			if !move.Phase.Ended() && (move.Source == id || move.Target == id) {
				known.Moves++
			}
		}
		registry.Shards[id] = known
	}
	return registry, l.unbalanced(view, registry)
}

// unbalanced counts the slots that have yet to move.
func (l *Ledger) unbalanced(view *cluster.View, registry *operator.Registry) error {
	if !view.Founded() {
		return nil
	}
	steps, err := rebalance.Propose(assembly.RebalanceView(view), nil)
	if err != nil {
		return fmt.Errorf("see which slots have yet to move: %w", err)
	}
	for _, move := range view.Moves {
		if move.Occupies() {
			registry.Moving += len(move.Slots)
		}
	}
	registry.Left = registry.Moving
	for _, step := range steps {
		registry.Left += len(step.Slots)
	}
	return nil
}

// Create implements operator.Ledger.
func (l *Ledger) Create(ctx context.Context, shards int) error {
	_, _, err := l.cluster.Init(ctx, shards)
	return err
}

// Join implements operator.Ledger.
func (l *Ledger) Join(ctx context.Context, id ledger.ShardID, dsn string) error {
	config, err := l.cluster.LoadConfig(ctx)
	if err != nil {
		return err
	}
	owner, err := l.asOwner(dsn)
	if err != nil {
		return err
	}
	say := func(line string) { l.log.InfoContext(ctx, line) }
	err = assembly.Join(ctx, l.cluster, config, assembly.Database{ID: id, DSN: dsn, OwnerDSN: owner}, l.passwords, say)
	for _, final := range []error{shard.ErrUnfit, shard.ErrOtherShard, cluster.ErrRetired, cluster.ErrRegistered, cluster.ErrMismatch} {
		if errors.Is(err, final) {
			return &operator.Refusal{Err: err}
		}
	}
	return err
}

// asOwner is the address of a shard for its owner.
func (l *Ledger) asOwner(dsn string) (string, error) {
	address, err := url.Parse(dsn)
	if err != nil {
		return "", fmt.Errorf("the address of a shard: %w", err)
	}
	address.User = l.owner
	return address.String(), nil
}

// Retire implements operator.Ledger.
func (l *Ledger) Retire(ctx context.Context, id ledger.ShardID) error {
	config, err := l.cluster.LoadConfig(ctx)
	if err != nil {
		return err
	}
	return l.cluster.Retire(ctx, config, id)
}

// Drain implements operator.Ledger.
func (l *Ledger) Drain(ctx context.Context, id ledger.ShardID) error {
	view, err := l.cluster.Read(ctx)
	if err != nil {
		return err
	}
	return assembly.Drain(ctx, l.cluster, view, id)
}

// Activate implements operator.Ledger.
func (l *Ledger) Activate(ctx context.Context, id ledger.ShardID) error {
	config, err := l.cluster.LoadConfig(ctx)
	if err != nil {
		return err
	}
	_, err = l.cluster.DrainShard(ctx, config, id, false)
	return err
}

// Remove implements operator.Ledger.
func (l *Ledger) Remove(ctx context.Context, id ledger.ShardID) error {
	return assembly.Remove(ctx, l.cluster, id, l.passwords, false)
}

// Ask implements operator.Ledger.
func (l *Ledger) Ask(ctx context.Context, id ledger.ShardID) (operator.Answer, error) {
	view, err := l.cluster.Read(ctx)
	if err != nil {
		return operator.Answer{}, err
	}
	known, ok := view.Shards[id]
	if !ok {
		return operator.Answer{}, fmt.Errorf("shard %s: %w", id, cluster.ErrNotRegistered)
	}
	left, err := assembly.Left(ctx, view, id, l.passwords)
	var stranger *placement.StrangerError
	if errors.As(err, &stranger) {
		return operator.Answer{}, l.failedOver(ctx, view, known, err)
	}
	return operator.Answer{Slots: left.Slots, Uncleaned: left.Uncleaned, Sagas: left.Sagas}, err
}

// failedOver says whether a server that refused to be a shard is a new primary of it.
func (l *Ledger) failedOver(ctx context.Context, view *cluster.View, known cluster.Shard, refused error) error {
	dsn, err := l.asOwner(known.DSN)
	if err != nil {
		return err
	}
	server, err := shard.Look(ctx, dsn, "")
	if err != nil {
		return errors.Join(refused, err)
	}
	same := server.Cluster == view.Config.UID && server.Shard == known.ID
	adopted := server.Timeline == server.Adopted && (known.Timeline == 0 || known.Timeline == server.Timeline)
	if !same || server.Standby || adopted || server.Timeline < max(known.Timeline, server.Adopted) {
		return refused
	}
	failover := &operator.NotAdoptedError{Timeline: server.Timeline}
	failover.Lost, err = assembly.Lost(ctx, l.cluster, known.ID, server)
	switch {
	case err != nil:
		failover.Unknown = err.Error()
	case server.ForksUnknown != "":
		failover.Unknown = server.ForksUnknown
	}
	return failover
}

// Adopt implements operator.Ledger.
func (l *Ledger) Adopt(ctx context.Context, id ledger.ShardID) error {
	view, err := l.cluster.Read(ctx)
	if err != nil {
		return err
	}
	owner, err := l.asOwner(view.Shards[id].DSN)
	if err != nil {
		return err
	}
	server, fenced, lost, err := assembly.Adopt(ctx, l.cluster, view, id, owner, "")
	if err != nil {
		return err
	}
	l.log.WarnContext(ctx, "adopted a new primary", "shard", id, "timeline", server.Timeline, "fenced", len(fenced), "lost", lost)
	return nil
}
