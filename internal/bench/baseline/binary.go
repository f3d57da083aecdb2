package baseline

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// values are values in Postgres's binary formats, each behind its size, as COPY and arrays have them.
type values struct{ b []byte }

func (v *values) size(n int) { v.b = binary.BigEndian.AppendUint32(v.b, uint32(n)) }

func (v *values) int16(x int16) {
	v.size(2)
	v.b = binary.BigEndian.AppendUint16(v.b, uint16(x))
}

func (v *values) int64(x int64) {
	v.size(8)
	v.b = binary.BigEndian.AppendUint64(v.b, uint64(x))
}

func (v *values) bool(x bool) {
	v.size(1)
	if x {
		v.b = append(v.b, 1)
	} else {
		v.b = append(v.b, 0)
	}
}

func (v *values) text(x string) {
	v.size(len(x))
	v.b = append(v.b, x...)
}

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (v *values) time(x time.Time) { v.int64(x.Sub(epoch).Microseconds()) }

// arrays are a statement's parameters.
type arrays struct {
	values
	all [][]byte
}

var binaryFormat = []int16{1} // of all parameters

func (a *arrays) begin() { a.b, a.all = a.b[:0], a.all[:0] }

func (a *arrays) int16s(n int, value func(i int) int16) {
	a.array(pgtype.Int2OID, n, func(i int) { a.int16(value(i)) })
}

func (a *arrays) int64s(n int, value func(i int) int64) {
	a.array(pgtype.Int8OID, n, func(i int) { a.int64(value(i)) })
}

func (a *arrays) texts(n int, value func(i int) string) {
	a.array(pgtype.TextOID, n, func(i int) { a.text(value(i)) })
}

// array adds one of n elements, which may not be none.
func (a *arrays) array(of uint32, n int, element func(i int)) {
	start := len(a.b)
	const dimensions, nulls, first = 1, 0, 1
	for _, x := range []uint32{dimensions, nulls, of, uint32(n), first} {
		a.b = binary.BigEndian.AppendUint32(a.b, x)
	}
	for i := range n {
		element(i)
	}
	a.all = append(a.all, a.b[start:])
}
