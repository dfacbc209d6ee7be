package nft

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/nftables"
)

// Element is an element of a set or a map of a table, as the kernel has it.
type Element struct {
	Set string
	Key string // its bytes
	End string // the last key of a range; empty: a single one
	Val string // what a map has for the key
}

func (e Element) String() string {
	text := hex.EncodeToString([]byte(e.Key))
	if e.End != "" {
		text += "-" + hex.EncodeToString([]byte(e.End))
	}
	if e.Val != "" {
		text += ": " + hex.EncodeToString([]byte(e.Val))
	}
	return text
}

// QueueAdd queues elements that are added to their sets.
func (t *Table) QueueAdd(c *nftables.Conn, elements []Element) error {
	return t.queue(c, AddElements, elements)
}

// QueueDelete queues elements that are deleted from their sets. Flush fails when one is not there.
func (t *Table) QueueDelete(c *nftables.Conn, elements []Element) error {
	return t.queue(c, DeleteElements, elements)
}

// ChangeElements removes elements from their sets, and adds others, in one transaction. It fails
// when one that is to be removed is not there.
func (t *Table) ChangeElements(add, remove []Element) error {
	return t.Change(func(c *nftables.Conn) error {
		return errors.Join(t.QueueDelete(c, remove), t.QueueAdd(c, add))
	})
}

// queue does one thing to elements of all sets.
func (t *Table) queue(
	c *nftables.Conn,
	do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error,
	elements []Element,
) error {
	of := map[string][]nftables.SetElement{}
	for _, e := range elements {
		of[e.Set] = append(of[e.Set], nftables.SetElement{Key: []byte(e.Key), KeyEnd: []byte(e.End), Val: []byte(e.Val)})
	}
	for name, its := range of {
		if err := do(c, t.Set(name, nftables.TypeInvalid), its); err != nil {
			return err
		}
	}
	return nil
}

// CheckElements returns an error unless the sets have these elements and no others.
func (t *Table) CheckElements(sets []*nftables.Set, elements []Element) error {
	missing := make(map[Element]bool, len(elements))
	for _, e := range elements {
		missing[e] = true
	}
	for _, set := range sets {
		have, err := t.Elements(set.Name)
		if err != nil {
			return err
		}
		for _, h := range have {
			e := Element{Set: set.Name, Key: string(h.Key), End: string(h.KeyEnd), Val: string(h.Val)}
			if !missing[e] {
				return fmt.Errorf("set %s of table inet %s has %s, which is not wanted", set.Name, t.Name, e)
			}
			delete(missing, e)
		}
	}
	for e := range missing {
		return fmt.Errorf("set %s of table inet %s lacks %s", e.Set, t.Name, e)
	}
	return nil
}
