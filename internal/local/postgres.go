package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const superuser = "postgres"

// PostgresOptions is what a [Postgres] is made from. Binaries and Dir are
// required.
type PostgresOptions struct {
	Binaries Binaries

	// Dir belongs wholly to this server; it is made if absent. When this process
	// is root, Postgres's user must be able to pass through the folders above it:
	// see [PrepareDir].
	Dir string

	// Port is the port wished for; 0 takes the one of the last start, or any free
	// one. If it is taken, another one is chosen: [Postgres.Port] tells.
	Port int

	// Settings are lines for postgres.conf that win over the built-in ones.
	Settings map[string]string

	// Name stands in log lines; the last part of Dir if empty.
	Name string

	// Log gets a line for each event; nil logs nothing.
	Log *slog.Logger

	// OnEvent, if not nil, is called for each event, one at a time, from Start's
	// caller or the supervising goroutine. It must not call Start or Stop.
	OnEvent func(Event)

	// StartLimit bounds how long a process may take until it accepts connections,
	// recovery after a crash included. Default one minute.
	StartLimit time.Duration

	// NoSync is for tests: initdb does not flush what it makes. Add the setting
	// fsync=off to have the server not flush either.
	NoSync bool

	// InitCache is for tests: a folder where freshly initialised data directories
	// are kept, by version, and copied instead of running initdb again. The copies
	// share one password and one system identifier.
	InitCache string

	// Primary makes the server a standby: if Dir is empty it begins as a copy of
	// that server, which must run then, and it follows that server, over a
	// replication slot of its own, until Promote. The two share their password.
	Primary *Postgres

	// LastWish is the signal the server gets if this process dies without having
	// stopped it (Linux only). Default SIGINT, a fast shutdown.
	LastWish syscall.Signal
}

// Postgres is a supervised Postgres server on this machine, listening on
// loopback only and asking for a password. Between Start and Stop, a server
// process that dies is started again.
type Postgres struct {
	opts PostgresOptions
	data string
	log  *slog.Logger

	life sync.Mutex // held by Start and Stop from end to end
	// Guarded by life:
	lock   *DirLock
	cancel context.CancelFunc // asks the supervisor to shut down
	hurry  chan struct{}      // closed when it must not take its time
	crash  chan struct{}      // closed when it must not shut down but die
	ended  chan struct{}      // closed when it has returned
	endErr error              // of the supervisor; readable once ended is closed

	// Used by Start before the supervisor runs, then by the supervisor alone:
	id   identity
	logf *os.File

	mu sync.Mutex // guards what the accessors read
	// Guarded by mu:
	pid      int
	port     int
	password string
}

// NewPostgres makes a server without touching the machine.
func NewPostgres(opts PostgresOptions) *Postgres {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Name == "" {
		opts.Name = filepath.Base(opts.Dir)
	}
	if opts.StartLimit == 0 {
		opts.StartLimit = time.Minute
	}
	if opts.LastWish == 0 {
		opts.LastWish = syscall.SIGINT
	}
	if abs, err := filepath.Abs(opts.Dir); err == nil { // else Start says so
		opts.Dir = abs
	}
	return &Postgres{opts: opts, log: opts.Log.With("postgres", opts.Name)}
}

// PID is the postmaster's process id, 0 while there is none.
func (p *Postgres) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Port is the port of the latest good start.
func (p *Postgres) Port() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.port
}

// Dir is the server's directory, Data the Postgres data directory inside it.
func (p *Postgres) Dir() string  { return p.opts.Dir }
func (p *Postgres) Data() string { return filepath.Join(p.opts.Dir, "data") }

// LogFile is where the server's own log goes.
func (p *Postgres) LogFile() string { return filepath.Join(p.opts.Dir, "postgres.log") }

// Password is the superuser's; valid after the first Start.
func (p *Postgres) Password() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.password
}

// DSN is a URL for the superuser and the database postgres, password included;
// valid after the first Start.
func (p *Postgres) DSN() string {
	u := p.url()
	u.User = url.UserPassword(superuser, p.Password())
	return u.String()
}

// DSNWithoutPassword is DSN for where secrets must not stand.
func (p *Postgres) DSNWithoutPassword() string {
	u := p.url()
	return u.String()
}

func (p *Postgres) url() url.URL {
	return url.URL{
		Scheme:   "postgres",
		User:     url.User(superuser),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port())),
		Path:     "/postgres",
		RawQuery: "sslmode=disable",
	}
}

// Start makes the data directory if there is none, stops a leftover server of
// an earlier process, starts the server and returns when it accepts
// connections. ctx bounds the start only: the server runs until Stop. After an
// error nothing runs. If another process supervises Dir, the error wraps
// [ErrLocked].
func (p *Postgres) Start(ctx context.Context) error {
	p.life.Lock()
	defer p.life.Unlock()
	if p.lock != nil {
		return fmt.Errorf("start postgres %s: it is started already", p.opts.Name)
	}
	c, err := p.begin(ctx)
	if err != nil {
		p.release()
		return fmt.Errorf("start postgres %s: %w", p.opts.Name, err)
	}
	supervised, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.hurry, p.crash, p.ended = make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(p.ended)
		p.endErr = p.supervise(supervised, c)
	}()
	return nil
}

// Stop shuts the server down, each transaction that was answered on disk, and
// returns when all its processes are gone. When ctx is done, or after half a
// minute, Stop no longer lets the server write its checkpoint: what was answered
// is still safe, the next start recovers it. Stop of a stopped server is nil.
func (p *Postgres) Stop(ctx context.Context) error {
	p.life.Lock()
	defer p.life.Unlock()
	if p.lock == nil {
		return nil
	}
	p.cancel()
	select {
	case <-p.ended:
	case <-ctx.Done():
		close(p.hurry)
		<-p.ended
	}
	return p.end()
}

// Kill ends the server as a crash would, with SIGKILL and no word to anybody,
// and does not start it again: Start does. Kill of a stopped server is nil.
func (p *Postgres) Kill() error {
	p.life.Lock()
	defer p.life.Unlock()
	if p.lock == nil {
		return nil
	}
	close(p.crash)
	p.cancel()
	<-p.ended
	return p.end()
}

// end releases what the supervisor, which has ended, has left.
func (p *Postgres) end() error {
	err := p.endErr
	p.release()
	if err != nil {
		return fmt.Errorf("stop postgres %s: %w", p.opts.Name, err)
	}
	return nil
}

// release gives back what begin took. Nothing may run any more.
func (p *Postgres) release() {
	if p.logf != nil {
		p.logf.Close()
		p.logf = nil
	}
	if p.lock != nil {
		p.lock.Unlock()
		p.lock = nil
	}
}

func (p *Postgres) begin(ctx context.Context) (*child, error) {
	dir, err := filepath.Abs(p.opts.Dir) // the server runs with another working directory
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if p.id, err = serverIdentity(); err != nil {
		return nil, err
	}
	if err := p.id.makeReachable(dir); err != nil {
		return nil, err
	}
	if err := p.id.checkReach(p.opts.Binaries.Dir); err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	p.data = filepath.Join(dir, "data")
	if p.lock, err = LockDir(dir); err != nil {
		return nil, err
	}
	if p.logf, err = openLog(p.LogFile()); err != nil {
		return nil, err
	}
	if err := p.ensureData(ctx); err != nil {
		return nil, err
	}
	return p.launch(ctx)
}

// maxLogBytes is the size from which a log is put aside at the next start.
const maxLogBytes = 16 << 20

// openLog opens a log to append to; one that grew large becomes path.old.
func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxLogBytes {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
}

func (p *Postgres) setPID(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
}

func (p *Postgres) event(e Event) {
	switch e.Kind {
	case Died:
		p.log.Warn("postgres died and will be started again", "pid", e.PID, "err", e.Err)
	default:
		p.log.Info("postgres "+string(e.Kind), "pid", e.PID, "port", e.Port)
	}
	if p.opts.OnEvent != nil {
		p.opts.OnEvent(e)
	}
}

const (
	restartFirst = 100 * time.Millisecond
	restartMost  = 10 * time.Second
	// A server that lived this long is healthy: its next death starts the backoff
	// anew.
	healthyAfter = 30 * time.Second

	stopFast      = 30 * time.Second
	stopImmediate = 5 * time.Second
)

// supervise keeps the server running until ctx is done, then shuts it down.
func (p *Postgres) supervise(ctx context.Context, c *child) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = restartFirst, restartMost
	for {
		born := time.Now()
		select {
		case <-ctx.Done():
			err := p.shutdown(c)
			p.setPID(0)
			p.event(Event{Kind: Stopped})
			return err
		case <-c.done:
		}
		p.setPID(0)
		if time.Since(born) > healthyAfter {
			pause.Reset()
		}
		died := Event{Kind: Died, PID: c.pid, Err: ended(c)}
		for c = nil; c == nil && ctx.Err() == nil; {
			p.event(died)
			select {
			case <-ctx.Done():
			case <-time.After(pause.NextBackOff()):
				var err error
				c, err = p.launch(ctx)
				died = Event{Kind: Died, Err: err}
			}
		}
		if c == nil {
			// Stopped between two processes; the dead one's backends may live on.
			err := clearLeftovers(context.Background(), p.data, p.log)
			p.event(Event{Kind: Stopped})
			return err
		}
	}
}

func ended(c *child) error {
	if c.err != nil {
		return c.err
	}
	return errors.New("it shut down without our asking")
}

// shutdown ends the child, and whatever processes it leaves.
func (p *Postgres) shutdown(c *child) error {
	select {
	case <-p.crash:
		c.signal(syscall.SIGKILL)
		<-c.done
		return clearLeftovers(context.Background(), p.data, p.log)
	default:
	}
	if procs, err := serverProcesses(p.data); err == nil {
		signalServers(p.data, procs, syscall.SIGCONT) // a frozen process cannot shut down
	}
	c.signal(syscall.SIGINT)
	if !waitChild(c, stopFast, p.hurry) {
		p.log.Warn("postgres does not shut down in time: stopping it at once", "pid", c.pid)
		c.signal(syscall.SIGQUIT)
		if !waitChild(c, stopImmediate, nil) {
			c.signal(syscall.SIGKILL)
			<-c.done
		}
	}
	return clearLeftovers(context.Background(), p.data, p.log)
}

func waitChild(c *child, limit time.Duration, hurry <-chan struct{}) bool {
	select {
	case <-c.done:
		return true
	case <-hurry:
		return false
	case <-time.After(limit):
		return false
	}
}

// launch starts one server process and returns when it accepts connections.
// After an error no process of it is left.
func (p *Postgres) launch(ctx context.Context) (*child, error) {
	if err := clearLeftovers(ctx, p.data, p.log); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.opts.StartLimit)
	defer cancel()
	// A port that is free now may be taken when the server binds it: then the
	// server exits and the next round chooses another one.
	const rounds = 10
	for round := 1; ; round++ {
		port, err := p.choosePort()
		if err != nil {
			return nil, err
		}
		p.event(Event{Kind: Starting, Port: port})
		c, err := p.launchOn(ctx, port)
		if err == nil {
			if err := writePorts(p.portFile(), port); err != nil {
				p.log.Warn("the port will not be kept over a restart", "err", err)
			}
			p.mu.Lock()
			p.pid, p.port = c.pid, port
			p.mu.Unlock()
			p.event(Event{Kind: Ready, Port: port, PID: c.pid})
			return c, nil
		}
		if ctx.Err() != nil || round == rounds || portFree(port) {
			return nil, err
		}
	}
}

func (p *Postgres) portFile() string { return filepath.Join(p.opts.Dir, "port") }

func (p *Postgres) choosePort() (int, error) {
	wishes := append([]int{p.Port(), p.opts.Port}, readPorts(p.portFile())...)
	for _, port := range wishes {
		if port != 0 && portFree(port) {
			return port, nil
		}
	}
	return freePort()
}

func (p *Postgres) launchOn(ctx context.Context, port int) (*child, error) {
	conf := filepath.Join(filepath.Dir(p.data), "postgres.conf")
	text, err := p.configuration(port)
	if err != nil {
		return nil, err
	}
	if err := replaceFile(conf, text, 0o644); err != nil {
		return nil, fmt.Errorf("write %s: %w", conf, err)
	}
	logStart, err := p.logf.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(p.opts.Binaries.program("postgres"), "-D", p.data, "-c", "config_file="+conf)
	cmd.Dir = "/"
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = p.logf, p.logf
	c, err := startChild(cmd, p.id, p.opts.LastWish)
	if err != nil {
		return nil, err
	}

	pidFile := filepath.Join(p.data, "postmaster.pid")
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-c.done:
			return nil, errors.Join(
				fmt.Errorf("the server exited while starting: %w; the end of %s:\n%s", ended(c), p.LogFile(), logTail(p.LogFile(), logStart)),
				clearLeftovers(context.Background(), p.data, p.log))
		case <-ctx.Done():
			c.signal(syscall.SIGQUIT)
			if !waitChild(c, stopImmediate, nil) {
				c.signal(syscall.SIGKILL)
				<-c.done
			}
			return nil, errors.Join(
				fmt.Errorf("wait until the server accepts connections: %w", ctx.Err()),
				clearLeftovers(context.Background(), p.data, p.log))
		case <-poll.C:
			if recordedReady(pidFile, c.pid) {
				return c, nil
			}
		}
	}
}

func logTail(path string, from int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var t tail
	if _, err := f.Seek(from, io.SeekStart); err == nil {
		_, _ = io.Copy(&t, f) // as much as there is
	}
	return t.String()
}

var settingName = regexp.MustCompile(`^[a-z_][a-z0-9_.]*$`)

func (p *Postgres) configuration(port int) (string, error) {
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "", // their paths are short of room, and nobody needs them
		"port":                    strconv.Itoa(port),
		"cluster_name":            clusterName(p.data),

		"fsync":               "on",
		"synchronous_commit":  "on",
		"full_page_writes":    "on",
		"password_encryption": "scram-sha-256",

		"max_connections": "100",
		"shared_buffers":  "128MB",

		"timezone":        "UTC",
		"log_timezone":    "UTC",
		"lc_messages":     "C",
		"datestyle":       "iso, mdy",
		"log_line_prefix": "%m [%p] %u@%d ",
	}
	maps.Copy(settings, p.opts.Settings)
	var b strings.Builder
	b.WriteString("# Written anew before each start; ALTER SYSTEM works and wins.\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := settings[name]
		if !settingName.MatchString(name) || strings.ContainsAny(value, "\n\r\x00") {
			return "", fmt.Errorf("setting %q = %q cannot stand in postgres.conf", name, value)
		}
		value = strings.ReplaceAll(strings.ReplaceAll(value, `\`, `\\`), `'`, `''`)
		fmt.Fprintf(&b, "%s = '%s'\n", name, value)
	}
	return b.String(), nil
}

// clusterName marks the processes of one data directory in a process list.
func clusterName(data string) string {
	sum := sha256.Sum256([]byte(data))
	return "saldo-" + hex.EncodeToString(sum[:4])
}
