package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// EtcdOptions is what an [Etcd] is made from. Dir is required.
type EtcdOptions struct {
	// Dir belongs wholly to this server; it is made if absent. It holds lock,
	// ports, etcd.log and data/.
	Dir string

	// ClientPort is the port wished for; 0 takes the one of the last start, or any
	// free one. If it is taken, another one is chosen: [Etcd.Endpoints] tells.
	ClientPort int

	// Log gets a line for each event; nil logs nothing. etcd's own warnings go to
	// etcd.log.
	Log *slog.Logger

	// ForTests does not flush to disk and ticks ten times as fast, so that leases
	// may be as short as 1 s and a start is quick.
	ForTests bool
}

// Etcd is a real etcd of one member in this process, listening on loopback only.
// It lives and dies with the process; its data is on disk.
type Etcd struct {
	opts EtcdOptions
	log  *slog.Logger

	life sync.Mutex // held by Start and Stop from end to end
	// Guarded by life:
	lock  *DirLock
	logf  *os.File
	etcd  *embed.Etcd
	watch sync.WaitGroup // the goroutine that reports etcd's failures

	mu        sync.Mutex
	endpoints []string // guarded by mu
}

// NewEtcd makes a server without touching the machine.
func NewEtcd(opts EtcdOptions) *Etcd {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if abs, err := filepath.Abs(opts.Dir); err == nil { // else Start says so
		opts.Dir = abs
	}
	return &Etcd{opts: opts, log: opts.Log.With("etcd", filepath.Base(opts.Dir))}
}

// Endpoints are the client URLs of the latest good start.
func (e *Etcd) Endpoints() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.endpoints...)
}

// Dir is the server's directory.
func (e *Etcd) Dir() string { return e.opts.Dir }

// LogFile is where etcd's own warnings go.
func (e *Etcd) LogFile() string { return filepath.Join(e.opts.Dir, "etcd.log") }

// Start starts the server and returns when it serves. ctx bounds the start only.
// After an error nothing runs. If another process uses Dir, the error wraps
// [ErrLocked].
func (e *Etcd) Start(ctx context.Context) error {
	e.life.Lock()
	defer e.life.Unlock()
	if e.lock != nil {
		return errors.New("start etcd: it is started already")
	}
	if err := e.begin(ctx); err != nil {
		e.release()
		return fmt.Errorf("start etcd: %w", err)
	}
	e.log.Info("etcd ready", "endpoints", e.Endpoints())
	return nil
}

// Stop ends the server: requests and watches in flight are cut off, mostly at
// once, and after the 7 seconds that etcd gives a request at the latest. Stop
// of a stopped server does nothing.
func (e *Etcd) Stop() {
	e.life.Lock()
	defer e.life.Unlock()
	if e.etcd == nil {
		return
	}
	closeEtcd(e.etcd)
	e.watch.Wait()
	e.etcd = nil
	e.release()
	e.log.Info("etcd stopped")
}

func (e *Etcd) release() {
	if e.logf != nil {
		e.logf.Close()
		e.logf = nil
	}
	if e.lock != nil {
		e.lock.Unlock()
		e.lock = nil
	}
}

func (e *Etcd) begin(ctx context.Context) error {
	if err := os.MkdirAll(e.opts.Dir, 0o755); err != nil {
		return err
	}
	var err error
	// etcd's own lock on its database would make a second process wait for ever.
	if e.lock, err = LockDir(e.opts.Dir); err != nil {
		return err
	}
	if e.logf, err = openLog(e.LogFile()); err != nil {
		return err
	}
	// As with Postgres, a port that is free now may be taken a moment later.
	const rounds = 10
	for round := 1; ; round++ {
		client, peer, err := e.choosePorts()
		if err != nil {
			return err
		}
		err = e.startOn(ctx, client, peer)
		if err == nil {
			if err := writePorts(e.portFile(), client, peer); err != nil {
				e.log.Warn("the ports will not be kept over a restart", "err", err)
			}
			return nil
		}
		if ctx.Err() != nil || round == rounds || portFree(client) && portFree(peer) {
			return err
		}
	}
}

func (e *Etcd) portFile() string { return filepath.Join(e.opts.Dir, "ports") }

func (e *Etcd) choosePorts() (client, peer int, err error) {
	kept := append(readPorts(e.portFile()), 0, 0)
	for _, port := range []int{e.opts.ClientPort, kept[0]} {
		if client == 0 && port != 0 && portFree(port) {
			client = port
		}
	}
	if client == 0 {
		if client, err = freePort(); err != nil {
			return 0, 0, err
		}
	}
	if kept[1] != client && kept[1] != 0 && portFree(kept[1]) {
		return client, kept[1], nil
	}
	for peer == 0 || peer == client {
		if peer, err = freePort(); err != nil {
			return 0, 0, err
		}
	}
	return client, peer, nil
}

const memberName = "saldo"

func (e *Etcd) startOn(ctx context.Context, clientPort, peerPort int) error {
	client, peer := loopback(clientPort), loopback(peerPort)
	cfg := embed.NewConfig()
	cfg.Name = memberName
	cfg.Dir = filepath.Join(e.opts.Dir, "data")
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	// Only the first start reads these two; later ones take the membership from
	// disk, where the peer URL may be an old one. A member that is alone never
	// dials it.
	cfg.InitialCluster = memberName + "=" + peer.String()
	cfg.InitialClusterToken = "saldo-local"
	cfg.EnableGRPCGateway = false // it would dial the server itself, and nobody asks it
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	cfg.SnapshotCount = 10000
	if e.opts.ForTests {
		cfg.UnsafeNoFsync = true
		cfg.TickMs, cfg.ElectionMs = 10, 100
	}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(
		zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(e.logf), zap.WarnLevel),
		zap.ErrorOutput(zapcore.AddSync(nowhere{}))))

	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("%w (see %s)", err, e.LogFile())
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		closeEtcd(etcd)
		return err
	case <-ctx.Done():
		closeEtcd(etcd)
		return fmt.Errorf("wait until it serves: %w", ctx.Err())
	}
	e.etcd = etcd
	e.mu.Lock()
	e.endpoints = []string{client.String()}
	e.mu.Unlock()
	e.watch.Go(func() {
		for err := range etcd.Err() { // ends when etcd is closed
			e.log.Error("etcd failed", "err", err)
		}
	})
	return nil
}

func loopback(port int) url.URL {
	return url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
}

// closeEtcd closes etcd. It waits for clients no longer than a request may take.
func closeEtcd(etcd *embed.Etcd) {
	etcd.Close()
}

// nowhere takes what zap says about a log file that is closed already.
type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
