package telemetry

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/tracing"
)

// sampler decides at the beginning of a span whether its trace is kept. What the head does not choose is still recorded
// where it is cheap, if the tail may choose it in the end.
//
// Two kinds of traces are not asked about: a batch is kept if something is that it carries, to which it is linked, and moves
// are always kept, since they are few.
type sampler struct {
	head sdktrace.Sampler
	tail bool
}

func (s sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	begins := !trace.SpanContextFromContext(p.ParentContext).IsValid()
	if begins && (slices.ContainsFunc(p.Links, linksSampled) || slices.ContainsFunc(p.Attributes, ofMove)) {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
	}
	result := s.head.ShouldSample(p)
	if result.Decision == sdktrace.Drop && s.tail {
		result.Decision = sdktrace.RecordOnly
	}
	return result
}

func linksSampled(link trace.Link) bool { return link.SpanContext.IsSampled() }

func ofMove(a attribute.KeyValue) bool { return a.Key == tracing.Move }

func (s sampler) Description() string { return "Saldo{" + s.head.Description() + "}" }

// usualTraces is how many a second are kept beforehand where the environment does not say: all of them when a person tries
// something, and a price that does not grow with the load.
const usualTraces = 20

// callersTraces is how many requests a second are kept since their callers say so: who may pay may not fill the collector.
const callersTraces = 200

// asCallersChoose asks root about traces that begin here. Of requests whose callers have chosen their traces only so many
// are kept. A saga follows what was decided about its request, as everything below does.
func asCallersChoose(root sdktrace.Sampler) sdktrace.Sampler {
	return sdktrace.ParentBased(root, sdktrace.WithRemoteParentSampled(requests{&perSecond{most: callersTraces}}))
}

// requests asks a sampler about requests, and keeps everything else.
type requests struct{ sdktrace.Sampler }

func (r requests) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Kind != trace.SpanKindServer {
		return sdktrace.AlwaysSample().ShouldSample(p)
	}
	return r.Sampler.ShouldSample(p)
}

func (r requests) Description() string { return "Requests{" + r.Sampler.Description() + "}" }

// headSampler reads OpenTelemetry's standard environment.
func headSampler() (sdktrace.Sampler, error) {
	name := strings.ToLower(strings.TrimSpace(os.Getenv("OTEL_TRACES_SAMPLER")))
	arg := strings.TrimSpace(os.Getenv("OTEL_TRACES_SAMPLER_ARG"))
	ratio := 1.0
	if strings.HasSuffix(name, "traceidratio") && arg != "" {
		var err error
		if ratio, err = strconv.ParseFloat(arg, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG is %q, not a number from 0 to 1", arg)
		}
	}
	switch name {
	case "":
		return asCallersChoose(&perSecond{most: usualTraces}), nil
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "traceidratio":
		return sdktrace.TraceIDRatioBased(ratio), nil
	case "parentbased_always_on":
		return sdktrace.ParentBased(sdktrace.AlwaysSample()), nil
	case "parentbased_always_off":
		return asCallersChoose(sdktrace.NeverSample()), nil
	case "parentbased_traceidratio":
		return asCallersChoose(sdktrace.TraceIDRatioBased(ratio)), nil
	}
	return nil, fmt.Errorf("OTEL_TRACES_SAMPLER is %q: say always_on, always_off, traceidratio, or one of these with parentbased_ "+
		"before it", name)
}

// perSecond allows so many in each second.
type perSecond struct {
	most int

	mu     sync.Mutex // guards what follows
	second int64
	taken  int
}

func (p *perSecond) take(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if second := now.Unix(); second != p.second {
		p.second, p.taken = second, 0
	}
	p.taken++
	return p.taken <= p.most
}

func (p *perSecond) ShouldSample(parameters sdktrace.SamplingParameters) sdktrace.SamplingResult {
	result := sdktrace.SamplingResult{
		Decision: sdktrace.Drop, Tracestate: trace.SpanContextFromContext(parameters.ParentContext).TraceState(),
	}
	if p.take(time.Now()) {
		result.Decision = sdktrace.RecordAndSample
	}
	return result
}

func (p *perSecond) Description() string { return fmt.Sprintf("PerSecond{%d}", p.most) }
