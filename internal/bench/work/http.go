package work

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// HTTPOptions say what a workload over HTTP is made of. Zero values mean the defaults, where there are any.
type HTTPOptions struct {
	URLs    []string          // of the routers, which the callers share evenly
	Callers int               // each with a connection of its own
	Seed    uint64            // of who pays whom
	Users   [][]ledger.UserID // with money, by shard

	Cross    float64       // share of the transfers that go to another shard, 0 to 1
	Batch    int           // transfers in one call of the batch endpoint; default 500
	Zipf     float64       // exponent, above 1; default 1.1
	Deep     ledger.UserID // whose history is read
	Depth    int64         // entries of it
	PageSize int           // entries of a page; default 50
}

// HTTP is a workload over HTTP. Its Call is a load.Call; Begin fits load.Plan's. After the load, Settle; then Close.
type HTTP struct {
	HTTPOptions
	call      func(c *httpCaller, ctx context.Context, n int64) (units int, err error)
	transfers Transfers
	callers   []*httpCaller

	mu      sync.Mutex
	items   map[string]int64  // of batches: transfers that were not done, by code, since Begin
	pending []ledger.Identity // transfers that were answered before their end
}

// HTTPWork is a kind of workload.
type HTTPWork struct {
	Name  string
	About string
	Deep  bool // it needs HTTPOptions.Deep and Depth
	Cross bool // it needs two shards or more if HTTPOptions.Cross is not 0

	call      func(c *httpCaller, ctx context.Context, n int64) (units int, err error)
	transfers func(o *HTTPOptions, run string) Transfers // nil if it makes none
}

// HTTPWorks are all there are.
func HTTPWorks() []HTTPWork {
	transfer := (*httpCaller).transfer
	within := func(o *HTTPOptions, run string) Transfers { return Within(o.Seed, run, o.Users) }
	fromOne := func(o *HTTPOptions, run string) Transfers { return FromOne(o.Seed, run, o.Users[0][0], o.Users[0][1:]) }
	toOne := func(o *HTTPOptions, run string) Transfers { return ToOne(o.Seed, run, o.Users[0][1:], o.Users[0][0]) }
	skewed := func(o *HTTPOptions, run string) Transfers { return Skewed(o.Seed, run, o.Users, o.Zipf, o.Callers) }
	partly := func(o *HTTPOptions, run string) Transfers { return Partly(o.Seed, run, o.Users, o.Cross) }
	return []HTTPWork{
		{Name: "same", call: transfer, transfers: within,
			About: "transfers within a shard, all users alike"},
		{Name: "hot-payer", call: transfer, transfers: fromOne,
			About: "transfers from one user to all others of a shard"},
		{Name: "hot-payee", call: transfer, transfers: toOne,
			About: "transfers to one user from all others of a shard"},
		{Name: "zipf", call: transfer, transfers: skewed,
			About: "transfers within a shard in most of which few users take part (--zipf)"},
		{Name: "cross", call: transfer, transfers: partly, Cross: true,
			About: "transfers of which a share goes to another shard (--cross); done when they are COMPLETED"},
		{Name: "batch", call: (*httpCaller).batch, transfers: partly, Cross: true,
			About: "transfers, many in one call (--batch), a share of them to another shard (--cross)"},
		{Name: "balance", call: (*httpCaller).balance,
			About: "reads of a balance"},
		{Name: "mixed", call: (*httpCaller).mixed, transfers: partly, Cross: true,
			About: "80 % reads of a balance, 20 % transfers, a share of them to another shard (--cross)"},
		{Name: "history", call: (*httpCaller).anyPage, Deep: true,
			About: "pages of a long history (--depth, --page-size), anywhere in it"},
		{Name: "history-first", call: (*httpCaller).firstPage, Deep: true,
			About: "the newest page of that history"},
		{Name: "history-last", call: (*httpCaller).lastPage, Deep: true,
			About: "the oldest page of that history"},
	}
}

// HTTPWorkNamed finds one by its name.
func HTTPWorkNamed(name string) (HTTPWork, error) {
	for _, w := range HTTPWorks() {
		if w.Name == name {
			return w, nil
		}
	}
	return HTTPWork{}, fmt.Errorf("there is no workload %q: `saldo bench list` tells which there are", name)
}

// NewHTTP makes a workload.
func NewHTTP(work HTTPWork, options HTTPOptions) (*HTTP, error) {
	setDefault(&options.Batch, 500)
	setDefault(&options.Zipf, 1.1)
	setDefault(&options.PageSize, 50)
	if err := options.check(work); err != nil {
		return nil, fmt.Errorf("workload %s: %w", work.Name, err)
	}
	h := &HTTP{HTTPOptions: options, call: work.call}
	if work.transfers != nil {
		h.transfers = work.transfers(&options, runName(options.Seed))
	}
	for i := range options.Callers {
		client, err := newClient(options.URLs[i%len(options.URLs)])
		if err != nil {
			return nil, fmt.Errorf("workload %s: %w", work.Name, err)
		}
		h.callers = append(h.callers, &httpCaller{HTTP: h, index: i, client: client})
	}
	return h, nil
}

func setDefault[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}

func (o *HTTPOptions) check(work HTTPWork) error {
	switch {
	case len(o.URLs) == 0:
		return errors.New("no router to call")
	case o.Callers < 1:
		return errors.New("no callers")
	case work.Deep && (o.Deep == "" || o.Depth < 1 || o.PageSize < 1):
		return errors.New("no history to read")
	case work.Deep:
		return nil
	case len(o.Users) == 0:
		return errors.New("no users")
	case o.Cross < 0 || o.Cross > 1:
		return fmt.Errorf("a share of %g to another shard is not 0 to 1", o.Cross)
	case work.Cross && o.Cross > 0 && len(o.Users) < 2:
		return errors.New("there is no other shard to pay to")
	case o.Zipf <= 1:
		return fmt.Errorf("an exponent of %g is not above 1", o.Zipf)
	case o.Batch < 1:
		return fmt.Errorf("%d transfers in one call are none", o.Batch)
	}
	for i, users := range o.Users {
		if len(users) < 3 {
			return fmt.Errorf("shard %d has %d users, not 3 or more", i+1, len(users))
		}
	}
	return nil
}

// runName begins the transaction ids of a run. It is another one each time, so that a seed may be used again on the same
// cluster: who pays whom is the same then, but no transfer is a repeat.
func runName(seed uint64) string {
	name := strconv.FormatUint(rand.NewPCG(seed, uint64(time.Now().UnixNano())).Uint64(), 36)
	return name[:min(len(name), 8)]
}

// Call is a load.Call.
func (h *HTTP) Call(ctx context.Context, caller int, n int64) (units int, err error) {
	return h.call(h.callers[caller], ctx, n)
}

// Begin forgets what was not done in the warm-up.
func (h *HTTP) Begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.items = nil
}

// Close ends the connections.
func (h *HTTP) Close() {
	for _, c := range h.callers {
		c.client.close()
	}
}

// Settle waits until every transfer that was answered PENDING has ended, and adds to the result's errors what its calls
// alone do not tell: the transfers of batches that were not done, by their codes; and of those that were pending the ones
// that ended otherwise than COMPLETED ("ended_REFUNDED") or did not end in time ("not_ended").
func (h *HTTP) Settle(ctx context.Context, result *bench.Result) error {
	h.mu.Lock()
	pending, items := h.pending, h.items
	h.pending, h.items = nil, nil
	h.mu.Unlock()
	deadline := time.Now().Add(time.Minute)
	var mu sync.Mutex // guards items
	count := func(code string) {
		mu.Lock()
		defer mu.Unlock()
		items = add(items, code, 1)
	}
	var (
		group sync.WaitGroup
		next  = make(chan ledger.Identity)
	)
	for _, c := range h.callers[:min(len(h.callers), 64)] {
		group.Go(func() {
			for id := range next {
				if status := c.end(ctx, id, deadline); status == "" {
					count("not_ended")
				} else if status != string(ledger.StatusCompleted) {
					count("ended_" + status)
				}
			}
		})
	}
	for _, id := range pending {
		next <- id
	}
	close(next)
	group.Wait()
	for code, n := range items {
		result.Errors = add(result.Errors, code, n)
	}
	return ctx.Err()
}

func add(counts map[string]int64, code string, n int64) map[string]int64 {
	if counts == nil {
		counts = make(map[string]int64)
	}
	counts[code] += n
	return counts
}

// httpCaller is one caller.
type httpCaller struct {
	*HTTP
	index   int
	client  *client
	body    []byte
	batched []ledger.Identity // of the batch under way
}

// random decides all about the caller's n-th call but its transfers.
func (c *httpCaller) random(n int64) *rand.PCG { return randomOf(c.Seed, c.index, n) }

// statusPending is counted apart: the transfer is not done yet.
const statusPending = refusal("pending")

func (c *httpCaller) transfer(ctx context.Context, n int64) (units int, err error) {
	t := c.transfers(c.index, n)
	c.body = appendTransfer(c.body[:0], &t)
	status, answer, err := c.client.post(ctx, "/transfers", c.body)
	switch {
	case err != nil:
		return 0, err
	case status == http.StatusCreated:
		return 1, nil
	case status == http.StatusAccepted:
		c.isPending(t.Identity)
		return 0, statusPending
	}
	return 0, refused(status, answer)
}

func (h *HTTP) isPending(id ledger.Identity) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending = append(h.pending, id)
}

// appendTransfer appends its JSON. No id needs escaping.
func appendTransfer(body []byte, t *ledger.Transfer) []byte {
	body = append(append(body, `{"source":"`...), t.Initiator...)
	body = append(append(body, `","destination":"`...), t.Payee...)
	body = strconv.AppendInt(append(body, `","amount":`...), int64(t.Amount), 10)
	body = append(append(body, `,"currency":"`...), t.Currency...)
	body = append(append(body, `","transaction_id":"`...), t.TxID...)
	return append(body, `"}`...)
}

// batch's call is done if it is answered; what became of each transfer is counted by the work.
func (c *httpCaller) batch(ctx context.Context, n int64) (units int, err error) {
	c.body, c.batched = append(c.body[:0], `{"transfers":[`...), c.batched[:0]
	for i := range c.Batch {
		if i > 0 {
			c.body = append(c.body, ',')
		}
		t := c.transfers(c.index, n*int64(c.Batch)+int64(i))
		c.body, c.batched = appendTransfer(c.body, &t), append(c.batched, t.Identity)
	}
	c.body = append(c.body, `]}`...)
	status, answer, err := c.client.post(ctx, "/transfers/batch", c.body)
	switch {
	case err != nil:
		return 0, err
	case status != http.StatusOK:
		return 0, refused(status, answer)
	}
	if done := bytes.Count(answer, []byte(`"status_code":201`)); done == len(c.batched) {
		return done, nil
	}
	return c.results(answer)
}

// results counts what became of each transfer of a batch that was not done as a whole.
func (c *httpCaller) results(answer []byte) (done int, err error) {
	var a struct {
		Data struct {
			Results []struct {
				Status int    `json:"status_code"`
				Code   string `json:"code"`
			} `json:"results"`
		} `json:"data"`
	}
	if err := json.Unmarshal(answer, &a); err != nil || len(a.Data.Results) != len(c.batched) {
		return 0, refusal("bad_answer")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, result := range a.Data.Results {
		switch result.Status {
		case http.StatusCreated:
			done++
		case http.StatusAccepted:
			c.pending = append(c.pending, c.batched[i])
			c.items = add(c.items, string(statusPending), 1)
		default:
			c.items = add(c.items, result.Code, 1)
		}
	}
	return done, nil
}

// end is the status with which a transfer ended, "" if it did not before the deadline.
func (c *httpCaller) end(ctx context.Context, id ledger.Identity, deadline time.Time) string {
	for ctx.Err() == nil && time.Now().Before(deadline) {
		status, answer, err := c.client.get(ctx, "/users/", string(id.Initiator), "/transfers/", string(id.TxID))
		var a struct {
			Data struct {
				Status string `json:"status"`
			} `json:"data"`
		}
		answered := err == nil && status == http.StatusOK && json.Unmarshal(answer, &a) == nil
		if answered && a.Data.Status != string(ledger.StatusPending) {
			return a.Data.Status
		}
		pause(ctx, 50*time.Millisecond)
	}
	return ""
}

func (c *httpCaller) balance(ctx context.Context, n int64) (units int, err error) {
	random := c.random(n)
	of := c.Users[below(random, len(c.Users))]
	status, answer, err := c.client.get(ctx, "/users/", string(of[below(random, len(of))]), "/balance?currency=USD")
	switch {
	case err != nil:
		return 0, err
	case status != http.StatusOK:
		return 0, refused(status, answer)
	}
	return 1, nil
}

const mixedReads = 0.8

func (c *httpCaller) mixed(ctx context.Context, n int64) (units int, err error) {
	if fraction(randomOf(^c.Seed, c.index, -n)) < mixedReads {
		return c.balance(ctx, n)
	}
	return c.transfer(ctx, n)
}

func (c *httpCaller) firstPage(ctx context.Context, _ int64) (units int, err error) {
	return c.page(ctx, "")
}

func (c *httpCaller) lastPage(ctx context.Context, _ int64) (units int, err error) {
	return c.page(ctx, cursor(c.lines()+1))
}

func (c *httpCaller) anyPage(ctx context.Context, n int64) (units int, err error) {
	newest := c.lines() + int64(below(c.random(n), int(c.Depth-c.lines()+1))) // so that no page is short
	return c.page(ctx, cursor(newest+1))
}

// lines is how many entries stand on a page.
func (h *HTTP) lines() int64 { return min(int64(h.PageSize), h.Depth) }

// cursor is next_page as routers write it: the version below which the page begins. A client is not to know that, but it
// would have to read all newer pages to be told.
func cursor(below int64) string {
	return "&page=" + base64.StdEncoding.EncodeToString(strconv.AppendInt(nil, below, 10))
}

func (c *httpCaller) page(ctx context.Context, cursor string) (units int, err error) {
	status, answer, err := c.client.get(ctx,
		"/users/", string(c.Deep), "/history?currency=USD&page_size=", strconv.Itoa(c.PageSize), cursor)
	switch {
	case err != nil:
		return 0, err
	case status != http.StatusOK:
		return 0, refused(status, answer)
	case bytes.Count(answer, []byte(`"created_at"`)) != int(c.lines()):
		return 0, refusal("short_page")
	}
	return 1, nil
}
