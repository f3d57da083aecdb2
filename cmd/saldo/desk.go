package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// desk says which coordinator a command asks: the one that is named, else that of the cluster that `saldo dev` runs from the
// data directory, else one on this machine.
type desk struct {
	Admin     string `name:"admin" env:"SALDO_ADMIN" placeholder:"URL" help:"Of any coordinator's operators' listener. Default: that of saldo dev, or http://127.0.0.1:8081."`
	TokenFile string `name:"admin-token-file" env:"SALDO_ADMIN_TOKEN_FILE" placeholder:"FILE" help:"Holds the operator's token, where the coordinator asks for one."`
	Data      string `name:"data" env:"SALDO_DATA" default:"${data}" help:"Data directory of saldo dev: its cluster is meant where --admin is not said."`
}

// askTime bounds a question to a coordinator, which bounds its own to shards.
const askTime = 25 * time.Second

func (d *desk) client() (*admin.Client, error) {
	c := &admin.Client{URL: d.Admin, HTTP: &http.Client{Timeout: askTime}}
	if c.URL == "" {
		file, err := readClusterFile(d.Data)
		if err != nil {
			return nil, err
		}
		c.URL = "http://127.0.0.1:8081"
		if file != nil {
			c.URL = cmp.Or(file.Admin, c.URL)
		}
	}
	if !strings.Contains(c.URL, "://") {
		c.URL = "http://" + c.URL
	}
	if d.TokenFile != "" {
		content, err := os.ReadFile(d.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("read the operator's token: %w", err)
		}
		c.Token = strings.TrimSpace(string(content))
	}
	return c, nil
}

// helpful says what to do about an error of a question to a coordinator.
func helpful(err error) error {
	var (
		unreachable *admin.Unreachable
		refused     *admin.Error
	)
	switch {
	case errors.As(err, &unreachable):
		return fmt.Errorf("%w\n  start a cluster with `saldo dev`, or name a coordinator's operators' listener "+
			"with --admin URL or SALDO_ADMIN", err)
	case errors.As(err, &refused) && refused.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%s\n  say where the operator's token is with --admin-token-file FILE or SALDO_ADMIN_TOKEN_FILE",
			refused.Message)
	case errors.As(err, &refused) && len(refused.Similar) > 0:
		return fmt.Errorf("%s\n  is it one of these? %s", refused.Message, strings.Join(refused.Similar, ", "))
	case errors.As(err, &refused) && refused.StatusCode == http.StatusInternalServerError:
		return fmt.Errorf("%s (%s)", refused.Message, refused.TraceID)
	}
	return err
}

// transferID is how a transfer is named on the command line: INITIATOR/TX_ID, or the two apart.
type transferID struct {
	ID   string `arg:"" help:"The transfer: INITIATOR/TX_ID, as lists show it, or its initiator."`
	TxID string `arg:"" optional:"" name:"tx-id" help:"The transaction id, where the initiator stands alone."`
}

func (t transferID) identity() (id ledger.Identity, err error) {
	initiator, txID := t.ID, t.TxID
	if first, second, both := strings.Cut(t.ID, "/"); both && txID == "" {
		initiator, txID = first, second
	}
	if txID == "" {
		return id, fmt.Errorf("%q names no transfer: say INITIATOR/TX_ID", t.ID)
	}
	if id.Initiator, err = ledger.ParseUserID(initiator); err != nil {
		return id, err
	}
	id.TxID, err = ledger.ParseTxID(txID)
	return id, err
}

// money says an amount with its currency, in the currency's minor units.
func money(amount ledger.Amount, currency ledger.Currency) string {
	return count(amount) + " " + string(currency)
}

// change says a signed amount.
func change(amount ledger.Amount, currency ledger.Currency) string {
	if amount > 0 {
		return "+" + money(amount, currency)
	}
	return money(amount, currency)
}

// lasted says a number of seconds as a person reads it.
func lasted(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// moment says a time of the day, or of another one.
func moment(t time.Time) string {
	t = t.Local()
	if now := time.Now(); t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04:05.000")
	}
	return t.Format("2006-01-02 15:04:05.000")
}

// printed is a client's own text as a terminal can take it: whatever is not to be seen is shown as unknown.
func printed(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// tellUnanswered says whose part is missing, and makes the command fail if there is one.
func tellUnanswered(to streams, unanswered []admin.Unanswered) error {
	for _, u := range unanswered {
		fmt.Fprintf(to.err, "shard %s: %s; what it has is missing here\n", u.Shard, u.Error)
	}
	if len(unanswered) > 0 {
		return wire.ExitCode(2)
	}
	return nil
}
