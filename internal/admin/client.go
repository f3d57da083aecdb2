package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Client asks a coordinator. An *Error is what it answered; an *Unreachable says that it did not.
type Client struct {
	URL   string // "http://127.0.0.1:8081"
	Token string // "" if none is needed
	HTTP  *http.Client
}

// Unreachable says that nothing of the kind answers at an address.
type Unreachable struct {
	URL   string
	Cause error
}

func (e *Unreachable) Error() string {
	return fmt.Sprintf("ask the coordinator at %s: %v", e.URL, e.Cause)
}

func (e *Unreachable) Unwrap() error { return e.Cause }

func ask[T any](ctx context.Context, c *Client, method string, query url.Values, path ...string) (answer T, err error) {
	address := strings.TrimRight(c.URL, "/") + Prefix
	for _, part := range path {
		address += "/" + url.PathEscape(part)
	}
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("{}")
	}
	request, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return answer, &Unreachable{c.URL, err}
	}
	if body != nil {
		request.Header.Set("Content-Type", jsonType)
	}
	if c.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.Token)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	if err != nil {
		return answer, &Unreachable{c.URL, err}
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, 32<<20))
	if err != nil {
		return answer, &Unreachable{c.URL, err}
	}
	if response.StatusCode != http.StatusOK {
		var refused Error
		if json.Unmarshal(content, &refused) != nil || refused.Code == "" {
			return answer, &Unreachable{c.URL, fmt.Errorf("what answers there is no coordinator: %s", response.Status)}
		}
		return answer, &refused
	}
	if err := json.NewDecoder(bytes.NewReader(content)).Decode(&answer); err != nil {
		return answer, &Unreachable{c.URL, fmt.Errorf("what answers there is no coordinator: %w", err)}
	}
	return answer, nil
}

// Cluster returns the cluster as a whole.
func (c *Client) Cluster(ctx context.Context) (Cluster, error) {
	return ask[Cluster](ctx, c, http.MethodGet, nil, "cluster")
}

// Shards returns all shards.
func (c *Client) Shards(ctx context.Context) (ShardList, error) {
	return ask[ShardList](ctx, c, http.MethodGet, nil, "shards")
}

// Moves returns the moves that have not ended.
func (c *Client) Moves(ctx context.Context) (MoveList, error) {
	return ask[MoveList](ctx, c, http.MethodGet, nil, "moves")
}

// Figures returns how much is going on.
func (c *Client) Figures(ctx context.Context) (Figures, error) {
	return ask[Figures](ctx, c, http.MethodGet, nil, "figures")
}

// Audit returns what the continuous audit has found.
func (c *Client) Audit(ctx context.Context) (AuditStatus, error) {
	return ask[AuditStatus](ctx, c, http.MethodGet, nil, "audit")
}

// Sagas returns a page of sagas, by the parameters of the route.
func (c *Client) Sagas(ctx context.Context, query url.Values) (SagaList, error) {
	return ask[SagaList](ctx, c, http.MethodGet, query, "sagas")
}

// Saga returns a saga with its way.
func (c *Client) Saga(ctx context.Context, id ledger.Identity) (Saga, error) {
	return ask[Saga](ctx, c, http.MethodGet, nil, "sagas", string(id.Initiator), string(id.TxID))
}

// RetrySaga has a saga tried at once.
func (c *Client) RetrySaga(ctx context.Context, id ledger.Identity) (SagaRetry, error) {
	return ask[SagaRetry](ctx, c, http.MethodPost, nil, "sagas", string(id.Initiator), string(id.TxID), "retry")
}

// User returns a user.
func (c *Client) User(ctx context.Context, id ledger.UserID) (User, error) {
	return ask[User](ctx, c, http.MethodGet, nil, "users", string(id))
}

// Transfers returns the transfers of a tx_id, of whichever initiators.
func (c *Client) Transfers(ctx context.Context, id ledger.TxID) (TransferList, error) {
	return ask[TransferList](ctx, c, http.MethodGet, nil, "transfers", string(id))
}

// Transfer returns one transfer.
func (c *Client) Transfer(ctx context.Context, id ledger.Identity) (Transfer, error) {
	return ask[Transfer](ctx, c, http.MethodGet, nil, "users", string(id.Initiator), "transfers", string(id.TxID))
}
