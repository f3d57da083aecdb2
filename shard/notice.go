package shard

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Notice names a kind of change on a shard. A notice may be lost; whoever waits for one also looks from time to time.
type Notice string

const (
	SagasOpened Notice = "saldo_sagas_opened"
	SagasEnded  Notice = "saldo_sagas_ended" // its payload names them: an initiator, a space and a tx_id on each line
)

// maxPayload is what Postgres lets a notice carry (8000 bytes, less a little).
const maxPayload = 7900

// maxNamed bounds the ended sagas that wait to be named. Beyond, a notice without names says: any.
const maxNamed = 8192

// noticeSender sends notices after commits, coalesced, on a connection of its own: a NOTIFY inside the batches'
// transactions would serialize all commits of the server.
type noticeSender struct {
	session *pgx.ConnConfig
	log     *slog.Logger
	wake    chan struct{} // room for one

	mu     sync.Mutex
	opened bool
	ended  []ledger.Identity
	any    bool // more ended than can be named
}

func newNoticeSender(session *pgx.ConnConfig, log *slog.Logger) *noticeSender {
	session = session.Copy()
	session.RuntimeParams["synchronous_commit"] = "off" // a notice is not money
	return &noticeSender{session: session, log: log, wake: make(chan struct{}, 1)}
}

// send marks notices as due. It never waits.
func (n *noticeSender) send(changes ledger.Changes) {
	if len(changes.Opened) == 0 && len(changes.Ended) == 0 {
		return
	}
	n.mu.Lock()
	n.opened = n.opened || len(changes.Opened) > 0
	for _, saga := range changes.Ended {
		n.ended = append(n.ended, saga.Identity)
	}
	if len(n.ended) > maxNamed {
		n.ended, n.any = nil, true
	}
	n.mu.Unlock()
	due(n.wake)
}

func due(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}

// take returns what is due, as the channels and payloads of notices.
func (n *noticeSender) take() (channels, payloads []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opened {
		channels, payloads = append(channels, string(SagasOpened)), append(payloads, "")
	}
	if n.any {
		channels, payloads = append(channels, string(SagasEnded)), append(payloads, "")
	}
	var names strings.Builder
	flush := func() {
		if names.Len() > 0 {
			channels, payloads = append(channels, string(SagasEnded)), append(payloads, names.String())
			names.Reset()
		}
	}
	for _, id := range n.ended {
		if names.Len()+len(id.Initiator)+len(id.TxID)+2 > maxPayload {
			flush()
		}
		names.WriteString(string(id.Initiator) + " " + string(id.TxID) + "\n")
	}
	flush()
	n.opened, n.ended, n.any = false, n.ended[:0], false
	return channels, payloads
}

const notifyStatement = `select pg_notify(channel, payload) from unnest($1::text[], $2::text[]) as due(channel, payload)`

func (n *noticeSender) run(ctx context.Context) {
	var conn *pgx.Conn
	defer func() { closeConn(conn) }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		}
		channels, payloads := n.take()
		if len(channels) == 0 { // the notice before said it
			continue
		}
		err := func() (err error) {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			if conn == nil || conn.IsClosed() {
				if conn, err = pgx.ConnectConfig(ctx, n.session); err != nil {
					return err
				}
			}
			_, err = conn.Exec(ctx, notifyStatement, channels, payloads)
			return err
		}()
		if err != nil {
			n.log.Debug("a notice was not sent; polls will find its cause", "error", err)
		}
	}
}

// Listen calls hear for each notice, with the sagas it names, or none if it may mean any. Since notices are lost while it
// is not connected, it calls hear for each kind, without names, when it has connected. It returns when ctx ends.
func (s *Shard) Listen(ctx context.Context, hear func(notice Notice, named []ledger.Identity), notices ...Notice) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, 2*time.Second
	for ctx.Err() == nil {
		err := s.listen(ctx, func(notice Notice, named []ledger.Identity) {
			pause.Reset()
			hear(notice, named)
		}, notices)
		if ctx.Err() != nil {
			return
		}
		s.log.Debug("lost the connection that listens for notices", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause.NextBackOff()):
		}
	}
}

func (s *Shard) listen(ctx context.Context, hear func(Notice, []ledger.Identity), notices []Notice) error {
	conn, err := pgx.ConnectConfig(ctx, s.lane.session)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	for _, notice := range notices {
		if _, err := conn.Exec(ctx, "listen "+string(notice)); err != nil {
			return err
		}
	}
	for _, notice := range notices {
		hear(notice, nil)
	}
	for {
		heard, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		hear(Notice(heard.Channel), parseNames(heard.Payload))
	}
}

func parseNames(payload string) []ledger.Identity {
	var named []ledger.Identity
	for line := range strings.Lines(payload) {
		if initiator, txID, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			named = append(named, ledger.Identity{Initiator: ledger.UserID(initiator), TxID: ledger.TxID(txID)})
		}
	}
	return named
}

func closeConn(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is broken or no longer needed
}
