package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// statement is one of a lane's statements, prepared once for each connection.
type statement struct {
	name, sql string
}

// trip is one network round trip: statements sent together with one Sync behind them, so Postgres skips everything after
// the first that fails. Values go in Postgres's binary formats straight into one buffer, without a copy or an interface
// for each: at a thousand rows a millisecond pgx's own encoding took a quarter of the client's time. A COPY among the
// statements is the cheapest way to bring rows in: one tuple store and one WAL record for many of them.
//
// Use: the parameters of a statement in their order, then run or copyRows; and in the end send.
type trip struct {
	conn   *pgconn.PgConn
	buffer []byte
	params [][]byte
	reads  []func(row *row) // by statement

	warning string // that came with the last statement's answer
}

// begin starts a trip on a connection that is idle or in a transaction.
func (t *trip) begin(conn *pgconn.PgConn) {
	clear(t.reads)
	t.conn, t.buffer, t.params, t.reads, t.warning = conn, t.buffer[:0], t.params[:0], t.reads[:0], ""
}

// raw adds a parameter that is encoded already; nil is null.
func (t *trip) raw(value []byte) { t.params = append(t.params, value) }

// array adds a parameter of n elements; each call of element must add one.
func (t *trip) array(elementType uint32, n int, element func(i int)) {
	start := len(t.buffer)
	dimensions := uint32(1)
	if n == 0 {
		dimensions = 0
	}
	t.buffer = binary.BigEndian.AppendUint32(t.buffer, dimensions)
	t.buffer = binary.BigEndian.AppendUint32(t.buffer, 0) // no nulls
	t.buffer = binary.BigEndian.AppendUint32(t.buffer, elementType)
	if n > 0 {
		t.buffer = binary.BigEndian.AppendUint32(t.buffer, uint32(n))
		t.buffer = binary.BigEndian.AppendUint32(t.buffer, 1) // the first index
	}
	for i := range n {
		element(i)
	}
	t.params = append(t.params, t.buffer[start:])
}

func (t *trip) int2s(n int, value func(i int) int16) {
	t.array(pgtype.Int2OID, n, func(i int) { t.int2(value(i)) })
}

func (t *trip) int8s(n int, value func(i int) int64) {
	t.array(pgtype.Int8OID, n, func(i int) { t.int8(value(i)) })
}

func (t *trip) texts(n int, value func(i int) string) {
	t.array(pgtype.TextOID, n, func(i int) { t.text(value(i)) })
}

func (t *trip) instants(n int, value func(i int) instant) {
	t.array(pgtype.TimestamptzOID, n, func(i int) { t.int8(int64(value(i))) })
}

func (t *trip) places(n int, value func(i int) place) {
	t.array(pgtype.TIDOID, n, func(i int) {
		p := value(i)
		t.buffer = append(binary.BigEndian.AppendUint32(t.buffer, uint32(len(p))), p[:]...)
	})
}

// The elements of arrays and the columns of rows: a length, then the value.

func (t *trip) int2(v int16) {
	t.buffer = binary.BigEndian.AppendUint32(t.buffer, 2)
	t.buffer = binary.BigEndian.AppendUint16(t.buffer, uint16(v))
}

func (t *trip) int8(v int64) {
	t.buffer = binary.BigEndian.AppendUint32(t.buffer, 8)
	t.buffer = binary.BigEndian.AppendUint64(t.buffer, uint64(v))
}

func (t *trip) bool(v bool) {
	t.buffer = binary.BigEndian.AppendUint32(t.buffer, 1)
	if v {
		t.buffer = append(t.buffer, 1)
	} else {
		t.buffer = append(t.buffer, 0)
	}
}

func (t *trip) text(v string) {
	t.buffer = binary.BigEndian.AppendUint32(t.buffer, uint32(len(v)))
	t.buffer = append(t.buffer, v...)
}

func (t *trip) instant(v instant) { t.int8(int64(v)) }

// run adds a statement with the parameters before it. read is called for each of its rows; nil if it has none.
func (t *trip) run(s statement, read func(row *row)) {
	t.conn.Frontend().SendBind(&pgproto3.Bind{
		PreparedStatement: s.name, ParameterFormatCodes: binaryFormat, Parameters: t.params, ResultFormatCodes: binaryFormat,
	})
	t.conn.Frontend().SendExecute(&pgproto3.Execute{})
	t.buffer, t.params = t.buffer[:0], t.params[:0]
	t.reads = append(t.reads, read)
}

var binaryFormat = []int16{pgtype.BinaryFormatCode}

const copySignature = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" // no flags, no extension

// copyRows adds a COPY of n rows; each call of columns must add that many values.
func (t *trip) copyRows(s statement, n, width int, columns func(i int)) {
	t.run(s, nil)
	t.buffer = append(t.buffer, copySignature...)
	for i := range n {
		t.buffer = binary.BigEndian.AppendUint16(t.buffer, uint16(width))
		columns(i)
	}
	t.buffer = binary.BigEndian.AppendUint16(t.buffer, 0xffff)
	t.conn.Frontend().Send(&pgproto3.CopyData{Data: t.buffer})
	t.conn.Frontend().Send(&pgproto3.CopyDone{})
	t.buffer = t.buffer[:0]
}

// send makes the round trip and returns the tag of the last statement that was done. The error is a *pgconn.PgError if
// that is what Postgres answered; after any other the connection is good for nothing.
func (t *trip) send(limit time.Duration) (tag string, err error) {
	socket := t.conn.Conn()
	if err := socket.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	t.conn.Frontend().SendSync(&pgproto3.Sync{})
	if err := t.conn.Frontend().Flush(); err != nil {
		return "", err
	}
	if tag, err = t.receive(); err != nil {
		var pg *pgconn.PgError
		if !errors.As(err, &pg) {
			return "", err
		}
	}
	if deadlineErr := socket.SetDeadline(time.Time{}); deadlineErr != nil && !t.conn.IsClosed() {
		return "", deadlineErr
	}
	return tag, err
}

func (t *trip) receive() (tag string, err error) {
	var (
		current = -1
		failed  error
		row     row
	)
	for {
		message, err := t.conn.ReceiveMessage(context.Background())
		if err != nil {
			return "", errors.Join(err, failed)
		}
		switch m := message.(type) {
		case *pgproto3.BindComplete:
			current++
		case *pgproto3.DataRow:
			if row.start(m.Values); current < len(t.reads) && t.reads[current] != nil {
				t.reads[current](&row)
			}
			if failed == nil {
				failed = row.err
			}
		case *pgproto3.CommandComplete:
			tag = string(m.CommandTag)
		case *pgproto3.NoticeResponse:
			if m.SeverityUnlocalized == "WARNING" && current == len(t.reads)-1 {
				t.warning = m.Message
			}
		case *pgproto3.ErrorResponse:
			failed = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return tag, failed
		}
	}
}

// row reads the columns of a row in their order, in Postgres's binary formats.
type row struct {
	values [][]byte
	err    error
}

func (r *row) start(values [][]byte) { r.values, r.err = values, nil }

// next returns the next column, which must be size bytes long; any size if that is -1.
func (r *row) next(size int) []byte {
	if len(r.values) == 0 || size >= 0 && len(r.values[0]) != size {
		r.err = fmt.Errorf("a row from Postgres is not what was asked for: %d more columns, wanted one of %d bytes", len(r.values), size)
		return make([]byte, max(size, 0))
	}
	value := r.values[0]
	r.values = r.values[1:]
	return value
}

func (r *row) int2() int16        { return int16(binary.BigEndian.Uint16(r.next(2))) }
func (r *row) int4() int32        { return int32(binary.BigEndian.Uint32(r.next(4))) }
func (r *row) int8() int64        { return int64(binary.BigEndian.Uint64(r.next(8))) }
func (r *row) bool() bool         { return r.next(1)[0] != 0 }
func (r *row) text() string       { return string(r.next(-1)) }
func (r *row) instant() instant   { return instant(r.int8()) }
func (r *row) place() place       { return place(r.next(6)) }
func (r *row) revision() revision { return revision(r.next(16)) }

// instant is a time as Postgres keeps it: microseconds since 2000-01-01, UTC.
type instant int64

const unixOfInstantZero = 946684800 // seconds

func (at instant) time() time.Time {
	return time.UnixMicro(int64(at) + unixOfInstantZero*1_000_000)
}

// place is where a row version stands, Postgres's ctid. As long as a transaction holds the row locked it stays there, so
// the transaction can find it again without an index.
type place [6]byte
