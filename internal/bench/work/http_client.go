package work

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// client is one caller's connection, kept alive. It makes no more of HTTP than the load needs, because the generator shares
// the processors with what it measures: a request is appended to a buffer and sent as it is, the answer is read in place.
type client struct {
	router *url.URL
	host   []byte // what stands in each request after its target

	conn     net.Conn // nil while there is none
	release  func() bool
	reader   *bufio.Reader
	request  []byte
	response fasthttp.Response
}

// patience is for an answer. Routers give theirs, whatever it is, in less.
const patience = 40 * time.Second

func newClient(address string) (*client, error) {
	router, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if router.Host == "" || router.Scheme != "http" && router.Scheme != "https" || len(router.Path) > 1 {
		return nil, fmt.Errorf("a router's address is http://host:port, not %q", address)
	}
	return &client{
		router: router, host: []byte(" HTTP/1.1\r\nHost: " + router.Host + "\r\n"), reader: bufio.NewReader(nil),
	}, nil
}

// get sends a request without a body for target, which must need no escaping.
func (c *client) get(ctx context.Context, target ...string) (status int, body []byte, err error) {
	c.request = append(c.request[:0], "GET "...)
	for _, part := range target {
		c.request = append(c.request, part...)
	}
	c.request = append(c.request, c.host...)
	c.request = append(c.request, "\r\n"...)
	return c.do(ctx)
}

// post sends a JSON body.
func (c *client) post(ctx context.Context, target string, json []byte) (status int, body []byte, err error) {
	c.request = append(append(append(c.request[:0], "POST "...), target...), c.host...)
	c.request = append(c.request, "Content-Type: application/json\r\nContent-Length: "...)
	c.request = strconv.AppendInt(c.request, int64(len(json)), 10)
	c.request = append(append(c.request, "\r\n\r\n"...), json...)
	return c.do(ctx)
}

// do sends the request and returns the answer, whose body is valid until the next call. An error has a code.
func (c *client) do(ctx context.Context) (status int, body []byte, err error) {
	reused := c.conn != nil
	status, begun, err := c.try(ctx)
	if err != nil && reused && !begun && ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		// The router had closed an idle connection. What is asked twice is done once.
		status, _, err = c.try(ctx)
	}
	switch {
	case err == nil:
		return status, c.response.Body(), nil
	case ctx.Err() != nil:
		return 0, nil, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, nil, refusal("timeout")
	}
	return 0, nil, refusal("connection")
}

// try sends the request once. begun tells whether an answer began to come.
func (c *client) try(ctx context.Context) (status int, begun bool, err error) {
	if c.conn == nil {
		if err := c.dial(ctx); err != nil {
			pause(ctx, 20*time.Millisecond) // who refuses connections does so very fast
			return 0, false, err
		}
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, false, err
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return 0, false, err
	}
	if _, err := c.reader.Peek(1); err != nil {
		return 0, false, err
	}
	if err := c.response.Read(c.reader); err != nil {
		return 0, true, err
	}
	if c.response.ConnectionClose() {
		c.close()
	}
	return c.response.StatusCode(), true, nil
}

func (c *client) dial(ctx context.Context) error {
	address := c.router.Host
	if c.router.Port() == "" {
		address = net.JoinHostPort(c.router.Hostname(), c.router.Scheme)
	}
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if c.router.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: c.router.Hostname()})
	}
	c.conn = conn
	c.release = context.AfterFunc(ctx, func() { _ = conn.Close() }) // it ends the call under way
	c.reader.Reset(conn)
	return nil
}

func (c *client) close() {
	if c.conn != nil {
		c.release()
		_ = c.conn.Close()
		c.conn = nil
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// refusal is why a call did not do its work: the code that the router's answer has, or what became of the connection.
type refusal string

func (r refusal) Error() string     { return string(r) }
func (r refusal) ErrorCode() string { return string(r) }

// refused makes an answer that is none of those wanted an error.
func refused(status int, body []byte) error {
	if _, rest, ok := bytes.Cut(body, []byte(`"code":"`)); ok {
		if code, _, ok := bytes.Cut(rest, []byte(`"`)); ok {
			return refusal(code)
		}
	}
	return refusal("http_" + strconv.Itoa(status))
}
