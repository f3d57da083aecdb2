package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/saldo-ledger/saldo/internal/local"
)

// etcdGate stands before etcd and can hold back what it tells.
type etcdGate struct {
	address string
	server  *grpc.ClientConn
	// What has changed is not told: watches bring nothing more, and the question whether they have missed something is not
	// answered. All else is.
	frozen atomic.Bool
	held   atomic.Int64 // answers that were not told because of that
	// Nothing comes through, in either direction; it does later.
	stalled atomic.Bool
}

// stall waits for as long as nothing comes through.
func (g *etcdGate) stall(ctx context.Context) {
	for g.stalled.Load() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
}

func newEtcdGate(t *testing.T, etcd *local.Etcd) *etcdGate {
	t.Helper()
	target := strings.TrimPrefix(etcd.Endpoints()[0], "http://")
	listener, err := net.Listen("tcp", freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	g := &etcdGate{address: listener.Addr().String(), server: conn}
	server := grpc.NewServer(grpc.ForceServerCodec(frames{}), grpc.UnknownServiceHandler(g.forward))
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("the gate before etcd: %v", err)
		}
		conn.Close()
	})
	return g
}

// forward passes a call on, message by message.
func (g *etcdGate) forward(_ any, client grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(client)
	ctx, cancel := context.WithCancel(client.Context())
	defer cancel()
	if header, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, header.Copy())
	}
	both := grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	server, err := g.server.NewStream(ctx, &both, method, grpc.ForceCodec(frames{}))
	if err != nil {
		return err
	}
	refused := make(chan error, 1)
	go func() { // until the call has ended
		for {
			var message []byte
			if client.RecvMsg(&message) != nil {
				_ = server.CloseSend()
				return
			}
			g.stall(ctx)
			if g.frozen.Load() && probes(method, message) {
				g.held.Add(1)
				// An error after which a client does not ask again at once.
				refused <- status.Error(codes.FailedPrecondition, "the gate does not answer this")
				cancel()
				return
			}
			if server.SendMsg(&message) != nil {
				return
			}
		}
	}()
	err = g.answer(method, server, client)
	cancel()
	select {
	case err = <-refused:
	default:
	}
	return err
}

func (g *etcdGate) answer(method string, server grpc.ClientStream, client grpc.ServerStream) error {
	for {
		var message []byte
		if err := server.RecvMsg(&message); err != nil {
			client.SetTrailer(server.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		g.stall(client.Context())
		if g.frozen.Load() && method == "/etcdserverpb.Watch/Watch" {
			g.held.Add(1)
			continue
		}
		if err := client.SendMsg(&message); err != nil {
			return err
		}
	}
}

// probes tells whether a request asks for nothing but what has changed.
func probes(method string, message []byte) bool {
	var request etcdserverpb.RangeRequest
	return method == "/etcdserverpb.KV/Range" && proto.Unmarshal(message, &request) == nil &&
		request.KeysOnly && request.MinModRevision > 0
}

// frames passes messages as they are.
type frames struct{}

func (frames) Name() string                       { return "proto" }
func (frames) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (frames) Unmarshal(data []byte, v any) error { *v.(*[]byte) = slices.Clone(data); return nil }
