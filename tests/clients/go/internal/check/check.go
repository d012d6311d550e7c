// Package check runs a table of checks, one line each, and counts them.
package check

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// One check: it fails by one of the functions below.
type One struct {
	Name string
	Run  func(context.Context)
}

type failure string

func fail(format string, args ...any) {
	place := "?"
	for depth := 2; depth < 8; depth++ {
		_, file, line, _ := runtime.Caller(depth)
		if filepath.Base(file) != "check.go" {
			place = fmt.Sprintf("%s:%d", filepath.Base(file), line)
			break
		}
	}
	panic(failure(place + ": " + strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")))
}

// Ok fails on an error.
func Ok(err error) {
	if err != nil {
		fail("%v", err)
	}
}

// Must is the value of a call that has to succeed.
func Must[V any](value V, err error) V {
	Ok(err)
	return value
}

// Is fails unless both are the same.
func Is[V comparable](got, want V) {
	if got != want {
		fail("%v instead of %v", got, want)
	}
}

// Says fails unless the values, one space between two, read like the text.
func Says(text string, values ...any) {
	if got := strings.TrimSuffix(fmt.Sprintln(values...), "\n"); got != text {
		fail("%s instead of %s", got, text)
	}
}

// That fails unless the condition holds.
func That(holds bool, format string, args ...any) {
	if !holds {
		fail(format, args...)
	}
}

// Refused fails unless the error is of the kind and says the text.
func Refused[V any](_ V, err error) func(kind func(error) bool, text string) {
	return func(kind func(error) bool, text string) {
		if err == nil || !kind(err) || !strings.Contains(err.Error(), text) {
			fail("the answer is %v, and not %q", err, text)
		}
	}
}

// Within waits until the condition holds.
func Within(limit time.Duration, what string, holds func() bool) {
	for end := time.Now().Add(limit); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			fail("after %s still not: %s", limit, what)
		}
	}
}

// Run runs the checks in their order, those whose name has $CLIENTS_ONLY in it, and ends the process.
func Run(suite string, checks []One) {
	passed, failed := 0, 0
	for _, one := range checks {
		if !strings.Contains(one.Name, os.Getenv("CLIENTS_ONLY")) {
			continue
		}
		started := time.Now()
		if why := run(one); why == "" {
			passed++
			fmt.Printf("ok %s: %s (%d ms)\n", suite, one.Name, time.Since(started).Milliseconds())
		} else {
			failed++
			fmt.Printf("not ok %s: %s: %s\n", suite, one.Name, why)
		}
	}
	fmt.Printf("%s: %d passed, %d failed\n", suite, passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func run(one One) (why string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	defer func() {
		switch found := recover().(type) {
		case nil:
		case failure:
			why = string(found)
		default:
			why = fmt.Sprint(found)
		}
	}()
	one.Run(ctx)
	return ""
}
