package placement

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Epochs are those of some slots, in the slots' order. Their text form is their runs, as in "2*127,5": 127 slots at epoch 2,
// then one at epoch 5.
type Epochs []ledger.Epoch

func (e Epochs) String() string {
	var text strings.Builder
	for i := 0; i < len(e); {
		end := i + 1
		for end < len(e) && e[end] == e[i] {
			end++
		}
		if text.Len() > 0 {
			text.WriteByte(',')
		}
		fmt.Fprintf(&text, "%d", e[i])
		if end > i+1 {
			fmt.Fprintf(&text, "*%d", end-i)
		}
		i = end
	}
	return text.String()
}

// MarshalText implements encoding.TextMarshaler.
func (e Epochs) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *Epochs) UnmarshalText(text []byte) error {
	var epochs Epochs
	for run := range strings.SplitSeq(string(text), ",") {
		value, times, many := strings.Cut(run, "*")
		epoch, err := strconv.ParseInt(value, 10, 64)
		if err != nil || epoch < 1 {
			return fmt.Errorf("%q is not an epoch", value)
		}
		n := 1
		if many {
			if n, err = strconv.Atoi(times); err != nil || n < 1 || n > Slots {
				return fmt.Errorf("%q is not a number of slots", times)
			}
		}
		if len(epochs)+n > Slots {
			return fmt.Errorf("epochs of more than %d slots", Slots)
		}
		for range n {
			epochs = append(epochs, ledger.Epoch(epoch))
		}
	}
	*e = epochs
	return nil
}
