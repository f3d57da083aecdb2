package baseline

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// copyRows are rows in Postgres's binary COPY format.
type copyRows struct{ b []byte }

func (r *copyRows) begin() {
	r.b = append(r.b[:0], "PGCOPY\n\377\r\n\000"...)
	r.b = append(r.b, make([]byte, 8)...) // no flags, no extension
}

func (r *copyRows) row(columns int) { r.b = binary.BigEndian.AppendUint16(r.b, uint16(columns)) }

func (r *copyRows) size(n int) { r.b = binary.BigEndian.AppendUint32(r.b, uint32(n)) }

func (r *copyRows) int16(v int16) {
	r.size(2)
	r.b = binary.BigEndian.AppendUint16(r.b, uint16(v))
}

func (r *copyRows) int64(v int64) {
	r.size(8)
	r.b = binary.BigEndian.AppendUint64(r.b, uint64(v))
}

func (r *copyRows) bool(v bool) {
	r.size(1)
	if v {
		r.b = append(r.b, 1)
	} else {
		r.b = append(r.b, 0)
	}
}

func (r *copyRows) text(v string) {
	r.size(len(v))
	r.b = append(r.b, v...)
}

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (r *copyRows) time(v time.Time) { r.int64(v.Sub(epoch).Microseconds()) }

func (r *copyRows) send(ctx context.Context, conn *pgconn.PgConn, statement string) error {
	r.b = append(r.b, 0xff, 0xff) // the end
	_, err := conn.CopyFrom(ctx, bytes.NewReader(r.b), statement)
	return err
}
