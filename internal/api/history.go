package api

import (
	"encoding/base64"
	"net/http"
	"strconv"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// maxPageSize is in entries.
const maxPageSize = 1000

// history answers GET /users/{uid}/history.
func (f *face) history(r *request) (reply, error) {
	id, err := r.user("uid")
	if err != nil {
		return reply{}, err
	}
	size, length := scanAmount(r.query.Get("page_size"))
	if size < 1 || size > maxPageSize || length != len(r.query.Get("page_size")) {
		return reply{}, &ledger.Error{Code: codePageSize}
	}
	var before int64
	if r.query.Has("page") {
		if before, err = parseCursor(r.query.Get("page")); err != nil {
			return reply{}, err
		}
	}
	currency, err := f.queryCurrency(r)
	if err != nil {
		return reply{}, err
	}
	page, err := f.Ledger.History(r, id, currency, before, int(size))
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, data: historyData{HistoryPage: page, size: int64(size)}}, nil
}

// cursor names the page of the entries below a version, as the first seed writes it: the number in base64. A version
// never gets another entry, so pages stay the same while entries arrive, and any page is found by its key.
func cursor(below int64) string {
	return base64.StdEncoding.EncodeToString(strconv.AppendInt(nil, below, 10))
}

// parseCursor accepts what cursor makes and nothing else. One beyond the newest entry is not told from one that is not:
// it is the first page.
func parseCursor(text string) (below int64, err error) {
	decoded, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		below, err = strconv.ParseInt(string(decoded), 10, 64)
	}
	if err != nil || below < 1 || cursor(below) != text {
		return 0, &ledger.Error{Code: codeCursor, Cause: err}
	}
	return below, nil
}

// historyData is one page of an account's history.
type historyData struct {
	ledger.HistoryPage
	size int64
}

func (d historyData) appendTo(o object) object {
	next := ""
	if n := len(d.Lines); n > 0 && d.Lines[n-1].Version > 1 {
		next = cursor(d.Lines[n-1].Version)
	}
	o = o.integer("total", d.Total).integer("page_size", d.size).text("next_page", next)
	lines := make([]historyLine, 0, len(d.Lines))
	for _, line := range d.Lines {
		lines = append(lines, historyLine(line))
	}
	return list(o, "histories", lines)
}

// historyLine is one entry.
type historyLine ledger.HistoryLine

func (d historyLine) appendTo(o object) object {
	kind := d.Kind.String()
	if d.Step == ledger.StepRefund {
		kind = "refund"
	}
	return o.time("created_at", d.CreatedAt).
		integer("amount", int64(d.Amount)).
		text("transaction_id", string(d.Identity.TxID)).
		integer("balance", int64(d.Balance)).
		integer("version", d.Version).
		text("kind", kind).
		text("counterparty", string(d.Counterparty))
}
