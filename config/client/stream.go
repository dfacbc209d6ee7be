package client

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// This file reads lists object by object, as they arrive: a list of ten thousand objects would
// take its size in memory, and again that of all its objects.

// message is an object of Kubernetes' own, in Protobuf.
type message interface{ Unmarshal([]byte) error }

// magic begins what the API server sends in Protobuf: see package protobuf of k8s.io/apimachinery,
// pkg/runtime/serializer.
const magic = "k8s\x00"

// Numbers of fields: of runtime.Unknown that of the object that it wraps, and of a list those of
// its metadata and items, which are the same for all lists of Kubernetes.
const (
	fieldRaw      = 2
	fieldMetadata = 1
	fieldItems    = 2
)

// mostOfOne bounds what is read of one object: etcd takes less than 2 MiB.
const mostOfOne = 16 << 20

var errLength = errors.New("the length of a field is wrong")

// readList calls each for every object of a list, which reads the object by decode, and returns the
// list's metadata.
func readList(from io.Reader, each func(decode func(into any) error) error) (metav1.ListMeta, error) {
	r := bufio.NewReaderSize(from, 64<<10)
	begin, err := r.Peek(len(magic))
	if err != nil {
		return metav1.ListMeta{}, fmt.Errorf("read a list: %w", err)
	}
	if string(begin) == magic {
		return readProtobuf(r, each)
	}
	return readJSON(r, each)
}

// readProtobuf is readList for Protobuf.
func readProtobuf(r *bufio.Reader, each func(func(any) error) error) (meta metav1.ListMeta, err error) {
	if _, err = r.Discard(len(magic)); err != nil {
		return meta, err
	}
	found := false
	err = eachField(r, func(number uint64, raw *io.LimitedReader) error {
		if number != fieldRaw {
			return nil
		}
		found = true
		inner := bufio.NewReaderSize(raw, 64<<10)
		var buffer []byte // of one object after the other, which copy what they keep
		return eachField(inner, func(number uint64, field *io.LimitedReader) error {
			if number != fieldMetadata && number != fieldItems {
				return nil
			}
			if field.N > mostOfOne {
				return errLength
			}
			if int64(cap(buffer)) < field.N {
				buffer = make([]byte, field.N)
			}
			encoded := buffer[:field.N]
			if _, err := io.ReadFull(field, encoded); err != nil {
				return err
			}
			if number == fieldMetadata {
				return meta.Unmarshal(encoded)
			}
			return each(func(into any) error {
				object, ok := into.(message)
				if !ok {
					return fmt.Errorf("%T cannot be read from Protobuf", into)
				}
				return object.Unmarshal(encoded)
			})
		})
	})
	if err == nil && !found {
		err = io.ErrUnexpectedEOF
	}
	return meta, err
}

// eachField calls each for the fields of a message that have a length, and skips what it leaves of
// them.
func eachField(r *bufio.Reader, each func(number uint64, field *io.LimitedReader) error) error {
	for {
		tag, err := binary.ReadUvarint(r)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		switch kind := tag & 7; kind {
		case 0: // a number
			if _, err := binary.ReadUvarint(r); err != nil {
				return err
			}
		case 2: // of a length
			length, err := binary.ReadUvarint(r)
			if err != nil {
				return noEOF(err)
			}
			if length > 1<<40 {
				return errLength
			}
			field := &io.LimitedReader{R: r, N: int64(length)}
			if err := each(tag>>3, field); err != nil {
				return noEOF(err)
			}
			if _, err := io.Copy(io.Discard, field); err != nil {
				return err
			}
			if field.N > 0 {
				return io.ErrUnexpectedEOF
			}
		default:
			return fmt.Errorf("a field is of kind %d, which no list has", kind)
		}
	}
}

// noEOF is for an end where none may be.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readJSON is readList for JSON.
func readJSON(r io.Reader, each func(func(any) error) error) (meta metav1.ListMeta, err error) {
	d := json.NewDecoder(r)
	if err := expect(d, '{'); err != nil {
		return meta, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return meta, err
		}
		switch name {
		case "metadata":
			err = d.Decode(&meta)
		case "items":
			err = readItems(d, each)
		default:
			err = d.Decode(new(json.RawMessage))
		}
		if err != nil {
			return meta, err
		}
	}
	return meta, expect(d, '}')
}

// readItems reads a list's items, which may be null.
func readItems(d *json.Decoder, each func(func(any) error) error) error {
	begin, err := d.Token()
	switch {
	case err != nil:
		return err
	case begin == nil:
		return nil
	case begin != json.Delim('['):
		return fmt.Errorf("items are %v, not a list", begin)
	}
	for d.More() {
		if err := each(d.Decode); err != nil {
			return err
		}
	}
	return expect(d, ']')
}

func expect(d *json.Decoder, delimiter json.Delim) error {
	switch found, err := d.Token(); {
	case err != nil:
		return noEOF(err)
	case found != delimiter:
		return fmt.Errorf("a list has %v where %v belongs", found, delimiter)
	}
	return nil
}
