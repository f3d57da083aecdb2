package saga_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/saldo-ledger/saldo/saga"
)

// traced has everything traced until the test ends; so the test cannot run beside others.
func traced(t *testing.T) *tracetest.SpanRecorder {
	spans := tracetest.NewSpanRecorder()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	t.Cleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	return spans
}

func value(s sdktrace.ReadOnlySpan, name attribute.Key) attribute.Value {
	for _, a := range s.Attributes() {
		if a.Key == name {
			return a.Value
		}
	}
	return attribute.Value{}
}

// A driver goes on with the trace in the saga's row. Of the tries of a step that fails for long only some are told.
func TestTriesAreTold(t *testing.T) {
	spans := traced(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.open("payee")
		w.queue[0].Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		credits := 0
		w.setFault(func(c call) fault {
			if credits++; c.what == "credit" && credits <= 20 {
				return fault{before: errLost}
			}
			return fault{}
		})
		w.drive(saga.Config{})
		w.within(5*time.Minute, "it ends", func() bool { return w.left() == 0 })
		w.check()
	})
	var tries []int64
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID().String() != "4bf92f3577b34da6a3ce929d0e0e4736" {
			t.Errorf("%s is in another trace", s.Name())
		}
		switch s.Name() {
		case "credit":
			n := value(s, "saldo.try").AsInt64()
			tries = append(tries, n)
			if failed := s.Status().Code == codes.Error; failed != (n <= 20) || s.Parent().IsRemote() {
				t.Errorf("try %d is %v under %v", n, s.Status(), s.Parent())
			}
		case "complete":
			if s.Status().Code == codes.Error || value(s, "saldo.outcome").AsString() != "applied" {
				t.Errorf("the end is %v with %v", s.Status(), s.Attributes())
			}
		case "saga":
			if s.Parent().SpanID().String() != "00f067aa0ba902b7" || value(s, "saldo.saga.state").AsString() != "completed" ||
				value(s, "saldo.saga.age").AsFloat64() <= 0 {
				t.Errorf("the saga is under %v with %v", s.Parent(), s.Attributes())
			}
		default:
			t.Errorf("there is a span %s", s.Name())
		}
	}
	if want := []int64{1, 2, 3, 4, 5, 6, 7, 8, 16, 21}; !slices.Equal(tries, want) {
		t.Errorf("tries %v are told, not %v", tries, want)
	}
}

// What a driver leaves when it ends has its span all the same.
func TestWhatIsLeftIsTold(t *testing.T) {
	spans := traced(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.open("payee")
		w.setFault(func(call) fault { return fault{before: errLost} })
		w.drive(saga.Config{})
		time.Sleep(10 * time.Second)
	})
	sagas := 0
	for _, s := range spans.Ended() {
		if s.Name() == "saga" {
			sagas++
			if state := value(s, "saldo.saga.state"); state.AsString() != "" {
				t.Errorf("the saga is said to be %s", state.AsString())
			}
		}
	}
	if sagas != 1 || len(spans.Ended()) != len(spans.Started()) {
		t.Errorf("%d sagas are told; %d spans were begun and %d ended", sagas, len(spans.Started()), len(spans.Ended()))
	}
}
