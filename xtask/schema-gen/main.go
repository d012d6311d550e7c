// schema-gen prints the facts of the Kubernetes API that Sampan's schema table is built from: messages, fields, tags,
// markers, enum values and kinds, read by reflection from the Go types and from the markers beside them.
// Nothing of upstream's prose is copied.
//
//	go run . facts            the facts table, to standard output
//	go run . golden DIR       filled objects as upstream encodes them (see golden.go)
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: schema-gen facts | golden DIR")
	}
	switch os.Args[1] {
	case "facts":
		out := bufio.NewWriter(os.Stdout)
		if err := writeFacts(out); err != nil {
			log.Fatal(err)
		}
		if err := out.Flush(); err != nil {
			log.Fatal(err)
		}
	case "golden":
		if len(os.Args) != 3 {
			log.Fatal("usage: schema-gen golden DIR")
		}
		if err := writeGolden(os.Args[2]); err != nil {
			log.Fatal(err)
		}
	default:
		log.Fatal(fmt.Errorf("unknown command %q", os.Args[1]))
	}
}
