package shard

import (
	"context"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
)

// Notice says that something changed on a shard. A notice may be lost; whoever waits for one also looks from time to time.
type Notice string

const (
	SagasOpened Notice = "saldo_sagas_opened"
	SagasEnded  Notice = "saldo_sagas_ended"
)

// noticeSender sends notices after commits, coalesced, on a connection of its own: a NOTIFY inside the batches'
// transactions would serialize all commits of the server.
type noticeSender struct {
	session *pgx.ConnConfig
	log     *slog.Logger
	opened  chan struct{} // room for one each: a notice that is due already says it
	ended   chan struct{}
}

func newNoticeSender(session *pgx.ConnConfig, log *slog.Logger) *noticeSender {
	session = session.Copy()
	session.RuntimeParams["synchronous_commit"] = "off" // a notice is not money
	return &noticeSender{session: session, log: log, opened: make(chan struct{}, 1), ended: make(chan struct{}, 1)}
}

// send marks notices as due. It never waits.
func (n *noticeSender) send(opened, ended bool) {
	if opened {
		due(n.opened)
	}
	if ended {
		due(n.ended)
	}
}

func due(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}

func (n *noticeSender) run(ctx context.Context) {
	var conn *pgx.Conn
	defer func() { closeConn(conn) }()
	for {
		var notice Notice
		select {
		case <-ctx.Done():
			return
		case <-n.opened:
			notice = SagasOpened
		case <-n.ended:
			notice = SagasEnded
		}
		err := func() (err error) {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			if conn == nil || conn.IsClosed() {
				if conn, err = pgx.ConnectConfig(ctx, n.session); err != nil {
					return err
				}
			}
			_, err = conn.Exec(ctx, "select pg_notify($1, '')", string(notice))
			return err
		}()
		if err != nil {
			n.log.Debug("a notice was not sent; the poll will find its cause", "notice", notice, "error", err)
		}
	}
}

// Listen calls hear for each notice, and once when it has connected, since notices before that are lost. It returns when
// ctx ends.
func (s *Shard) Listen(ctx context.Context, hear func(Notice), notices ...Notice) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, 2*time.Second
	for ctx.Err() == nil {
		err := s.listen(ctx, func(notice Notice) {
			pause.Reset()
			hear(notice)
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

func (s *Shard) listen(ctx context.Context, hear func(Notice), notices []Notice) error {
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
		hear(notice)
	}
	for {
		heard, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		hear(Notice(heard.Channel))
	}
}

func closeConn(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is broken or no longer needed
}
