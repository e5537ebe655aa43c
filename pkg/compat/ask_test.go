package compat

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apimachineryversion "k8s.io/apimachinery/pkg/version"
)

var errRefused = errors.New("connection refused")

func TestAskTriesAgainUntilThereIsAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, attempts := time.Now(), 0
		got, err := ask(t.Context(), "https://127.0.0.1:1", func(context.Context) (answer, error) {
			attempts++
			if attempts < 5 {
				return answer{}, errRefused
			}
			return answer{version: apimachineryversion.Info{Minor: "36"}}, nil
		})
		if err != nil || got.version.Minor != "36" {
			t.Errorf("ask = %+v, %v; want the answer of the fifth attempt", got, err)
		}
		if waited, want := time.Since(start), 15*time.Second; waited != want {
			t.Errorf("pauses of %s in all, want 1, 2, 4 and 8 s", waited)
		}
	})
}

func TestAskGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, attempts := time.Now(), 0
		_, err := ask(t.Context(), "https://127.0.0.1:1", func(context.Context) (answer, error) {
			attempts++
			return answer{}, errRefused
		})
		if !errors.Is(err, ErrNoAnswer) || !errors.Is(err, errRefused) {
			t.Errorf("error is %v, want ErrNoAnswer with the last failure", err)
		}
		if !strings.Contains(err.Error(), "https://127.0.0.1:1") || !strings.Contains(err.Error(), "--kubeconfig") {
			t.Errorf("error does not name the server and the flag: %v", err)
		}
		if waited := time.Since(start); waited > giveUpAfter || waited < giveUpAfter-longestPause {
			t.Errorf("gave up after %s, want at most %s", waited, giveUpAfter)
		}
		if attempts < 10 || attempts > 50 {
			t.Errorf("%d attempts, want one every %s at most", attempts, longestPause)
		}
	})
}

func TestAskEndsAnAttemptThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		_, err := ask(t.Context(), "https://127.0.0.1:1", func(ctx context.Context) (answer, error) {
			attempts++
			if attempts == 1 {
				<-ctx.Done()
				return answer{}, ctx.Err()
			}
			return answer{}, nil
		})
		if err != nil || attempts != 2 {
			t.Errorf("%d attempts, %v; want the second to succeed", attempts, err)
		}
	})
}

func TestAskStopsWhenTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := errors.New("SIGTERM")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(5*time.Second, func() { cancel(stop) })
		start := time.Now()
		_, err := ask(ctx, "https://127.0.0.1:1", func(context.Context) (answer, error) { return answer{}, errRefused })
		if !errors.Is(err, stop) || !errors.Is(err, errRefused) {
			t.Errorf("error is %v, want the cause and the last failure", err)
		}
		if waited := time.Since(start); waited != 5*time.Second {
			t.Errorf("stopped after %s, want 5s", waited)
		}
	})
}
