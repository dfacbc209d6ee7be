package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/dashboard"
	"github.com/berth-lb/berth/kubectl/why"
)

func topCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use:   "top",
		Short: "Show pools, nodes and Services with problems in the terminal, as they change",
		Example: `  # Until q or ctrl-c
  kubectl berth top

  # Once: without a terminal it prints what there is, and ends
  kubectl berth top | cat`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, err := c.clients()
			if err != nil {
				return err
			}
			in, inOK := c.In.(*os.File)
			out, outOK := c.Out.(*os.File)
			if !inOK || !outOK || !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
				return c.topOnce(cmd.Context(), to)
			}
			return c.topLive(cmd.Context(), to, in, out)
		},
	}
}

func (c *common) topOnce(ctx context.Context, to *cluster.Clients) error {
	s, err := cluster.Read(ctx, to, c.namespace)
	if err != nil {
		return err
	}
	pods := func(namespace string) why.Pods { return podsOf(ctx, to, namespace) }
	for _, l := range screenOf(dashboard.Frame{Title: c.titleOf(to)}.Next(dashboard.Of(s, pods))) {
		fmt.Fprintln(c.Out, printable(l.text))
	}
	return nil
}

// Sequences of ECMA-48 that terminals know. The other screen leaves the first one as it was.
const (
	otherScreen = "\x1b[?1049h\x1b[?25l" // and hide the cursor
	firstScreen = "\x1b[?25h\x1b[?1049l"
	topLeft     = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
	plain       = "\x1b[0m"
	bold        = "\x1b[1m"
	red         = "\x1b[31m"
	yellow      = "\x1b[33m"
)

// topLive draws again at each change, and when a key is pressed, such as after a resize.
func (c *common) topLive(ctx context.Context, to *cluster.Clients, in, out *os.File) error {
	before, err := term.MakeRaw(int(in.Fd())) // keys come without Enter
	if err != nil {
		return fmt.Errorf("prepare the terminal: %w", err)
	}
	defer func() { _ = term.Restore(int(in.Fd()), before) }()
	fmt.Fprint(out, otherScreen)
	defer fmt.Fprint(out, firstScreen)

	keys := make(chan byte)
	go readKeys(in, keys) // ends with the process: a read of a terminal is not interrupted
	frames := make(chan dashboard.Frame)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var work errgroup.Group
	work.Go(func() error {
		defer close(frames)
		return c.live(ctx, to, func(_ *cluster.State, f dashboard.Frame) error {
			select {
			case frames <- f:
			case <-ctx.Done():
			}
			return nil
		})
	})
	var frame dashboard.Frame
	for {
		select {
		case f, ok := <-frames:
			if !ok {
				return work.Wait()
			}
			frame = f
		case key := <-keys:
			if key == 'q' || key == 'Q' || key == 3 { // ctrl-c, which a raw terminal hands over
				stop()
				return work.Wait()
			}
		}
		if frame.Snapshot == nil {
			continue
		}
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil {
			width, height = 80, 24
		}
		draw(out, screenOf(frame), width, height)
	}
}

func readKeys(in io.Reader, keys chan<- byte) {
	var key [1]byte
	for {
		if _, err := in.Read(key[:]); err != nil {
			return
		}
		keys <- key[0]
	}
}

// line is a line of the screen with its style.
type line struct{ style, text string }

// draw writes what fits, in one write, so that nothing flickers.
func draw(out io.Writer, lines []line, width, height int) {
	var b bytes.Buffer
	b.WriteString(topLeft)
	for i, l := range lines[:min(len(lines), height)] {
		if i > 0 {
			b.WriteString("\r\n")
		}
		text := []rune(printable(l.text))
		if len(text) > width {
			text = append(text[:max(0, width-1)], '…')
		}
		b.WriteString(l.style + string(text) + plain + clearLine)
	}
	b.WriteString(clearBelow)
	_, _ = out.Write(b.Bytes()) // a terminal that is gone ends the input, too
}

// screenOf returns the lines of the screen, the most important ones first.
func screenOf(f dashboard.Frame) []line {
	st := f.Status
	lines := []line{{bold, fmt.Sprintf("Berth of %s at %s", f.Title, f.Taken.Local().Format(time.TimeOnly))}}
	add := func(style, format string, args ...any) {
		lines = append(lines, line{style, fmt.Sprintf(format, args...)})
	}
	if f.Stale != "" {
		add(red, "This is old: %s", f.Stale)
	}
	for _, p := range f.Problems {
		add(red, "WRONG  %s", p)
	}
	for _, u := range st.Unknown {
		add(yellow, "note   %s", u)
	}
	if len(f.Problems) == 0 {
		add("", "Nothing is wrong.")
	}
	add("", "Controllers %s ready, speakers %s announce, Services %s announced, sessions %s established",
		st.Controllers, st.Speakers, st.Services, st.Sessions)
	table := func(title string, rows int, write func(w io.Writer)) {
		if rows == 0 {
			return
		}
		var b bytes.Buffer
		w := printers.GetNewTabWriter(&b)
		write(w)
		_ = w.Flush() // into memory
		add("", "")
		add(bold, "%s", title)
		for text := range strings.Lines(b.String()) {
			add("", "%s", strings.TrimRight(text, " \n"))
		}
	}
	table("Pools", len(f.Pools), func(w io.Writer) {
		for _, p := range f.Pools {
			fmt.Fprintf(w, "%s\tIPv4 %s\t%s\tIPv6 %s\t%s\t%s\n",
				p.Name, bar(p.PercentIPv4), p.IPv4, bar(p.PercentIPv6), p.IPv6, p.Problem)
		}
	})
	table("Nodes", len(f.Nodes), func(w io.Writer) {
		for _, n := range f.Nodes {
			fmt.Fprintf(w, "%s\t%s\t%d addresses\tsessions %s\t%s\n", n.Name, n.State, n.Owned, n.Sessions, n.Problem)
		}
	})
	var troubled []dashboard.Service
	for _, s := range f.Services {
		if s.Problem != "" {
			troubled = append(troubled, s)
		}
	}
	title := fmt.Sprintf("Services with problems: %d of %d", len(troubled), len(f.Services))
	table(title, len(f.Services), func(w io.Writer) {
		for _, s := range troubled {
			fmt.Fprintf(w, "%s\t%s/%s\t%s\n", signs[s.Health], s.Namespace, s.Name, s.Problem)
		}
	})
	table("What happened", len(f.Timeline), func(w io.Writer) {
		for _, e := range f.Timeline[:min(len(f.Timeline), 50)] {
			sign := signs[e.Grade]
			if e.Grade == why.OK {
				sign = ""
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.At.Local().Format(time.TimeOnly), sign, e.Object, e.Text)
		}
	})
	return lines
}

// bar draws a share of ten.
func bar(percent int) string {
	if percent < 0 {
		return ""
	}
	full := (percent + 9) / 10
	return strings.Repeat("█", full) + strings.Repeat("░", 10-full)
}
