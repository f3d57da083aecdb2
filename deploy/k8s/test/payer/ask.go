package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"time"
)

type transferBody struct {
	Source        string `json:"source"`
	Destination   string `json:"destination"`
	Amount        int64  `json:"amount"`
	TransactionID string `json:"transaction_id"`
}

// answer is what of an answer matters here.
type answer struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Data    struct {
		Status  string `json:"status"`
		Balance int64  `json:"balance"`
		Version int64  `json:"version"`
		Results []struct {
			StatusCode int    `json:"status_code"`
			Code       string `json:"code"`
			Status     string `json:"status"`
			TxID       string `json:"transaction_id"`
		} `json:"results"`
	} `json:"data"`
}

// insist repeats a request until it is answered with a status of want. An answer that no repeat can change is an error.
func (p *payer) insist(ctx context.Context, method, path string, body any, want ...int) (answer, error) {
	for try := 0; ; try++ {
		status, got, wait, err := p.once(ctx, method, path, body)
		for _, w := range want {
			if err == nil && status == w {
				return got, nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return got, fmt.Errorf("its outcome has not become known: %w", context.Cause(ctx))
		case err != nil:
			p.failed("no answer", err.Error())
		case status == http.StatusAccepted: // it is on its way
			p.note(func(s *step) { s.pending++ })
			wait = 100 * time.Millisecond
		case status >= 500:
			p.failed(strconv.Itoa(status), got.Message)
		default:
			return got, fmt.Errorf("answered %d %s: %s", status, got.Code, got.Message)
		}
		wait = max(wait, min(25*time.Millisecond<<min(try, 6), time.Second))
		select {
		case <-ctx.Done():
		case <-time.After(wait + rand.N(wait)):
		}
	}
}

// once sends a request. It has its transaction id as Idempotency-Key too, so that Go's client itself repeats it, on another
// connection, if a server closes an idle connection in the moment in which the request is on its way there: that can
// happen to any client that keeps connections, and is counted by itself.
func (p *payer) once(
	ctx context.Context, method, path string, body any,
) (status int, got answer, wait time.Duration, err error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, got, 0, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, p.url+path, content)
	if err != nil {
		return 0, got, 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	if t, ok := body.(transferBody); ok {
		request.Header.Set("Idempotency-Key", t.TransactionID)
	}
	connections := 0
	request = request.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			if connections++; connections > 1 {
				p.note(func(s *step) { s.resent++ })
			}
		},
	}))
	response, err := p.client.Do(request)
	if err != nil {
		return 0, got, 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, got, 0, err
	}
	if err := json.Unmarshal(text, &got); err != nil {
		return 0, got, 0, fmt.Errorf("status %d with a body that is not Saldo's: %w", response.StatusCode, err)
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		wait = time.Duration(seconds) * time.Second
	}
	return response.StatusCode, got, wait, nil
}
